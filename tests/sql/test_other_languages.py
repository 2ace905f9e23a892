"""`Workers in other languages` of sql/README.md keeps its word: its statements, as printed, are a worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

README = (Path(__file__).parents[2] / "sql" / "README.md").read_text()


def statements() -> list[str]:
    """As printed, without comments."""
    section = README.split("\n## Workers in other languages\n", 1)[1].split("\n## ", 1)[0]
    (script,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return [part.strip() for part in re.sub(r"--[^\n]*", "", script).split(";") if part.strip()]


def test_the_printed_statements_are_a_worker(conninfo: str) -> None:
    known: dict[str, str] = {}
    answers: list[list[dict[str, Any]]] = []
    with psycopg.connect(conninfo, autocommit=True, row_factory=dict_row) as db:
        for number, statement in enumerate(statements()):
            text = re.sub(r"(?<!:):([a-z]+)", lambda found: known[found[1]], statement)
            cursor = db.execute(text.encode())
            answers.append(cursor.fetchall() if cursor.description else [])
            for row in answers[-1][:1]:
                names = {"worker_id": "worker", "run_id": "run", "attempt": "attempt"}
                known.update({names[name]: str(value) for name, value in row.items() if name in names})
            if number == 1:
                db.execute("select enqueue_run('default', 'scan.read', '{\"page\": 1}', 'scans', p_session => 's')")
            if "'{retry}'" in statement:
                # As if its worker, and the next one's, had died meanwhile.
                db.execute("update run set suspect = true, deaths = 2, state = 'queued', run_at = null")
        _, registered, _, beat, rescued, woken, claimed, *answers = answers
        steps, signals, kept, rests, sent, again, retried, apart, ended, left = answers
        run, at = int(known["run"]), known["attempt"]
        assert registered == [{"worker_id": int(known["worker"])}]
        assert beat == [{"alive": True, "cancelled": [], "suspects": False, "draining": False}]
        assert (rescued, woken) == ([{"workers": 0, "runs": 0}], [{"woken": 0, "next_at": None}])
        assert [(row["run_id"], row["task"], row["args"], row["attempt"], row["failures"]) for row in claimed] == [
            (run, "scan.read", '{"page": 1}', 1, 0)
        ]
        assert (steps, signals) == ([], [])
        assert kept == [{"status": "ok"}] * 2
        assert (rests, sent) == ([{"status": "ok"}], [{"status": "sent"}])
        assert again == [{"run_id": run, "attempt": 2}]
        assert retried == [{"status": "ok"}]
        assert apart == [{"run_id": run, "attempt": 3}]
        assert ended == [{"status": "ok"}] * 2
        assert left == [{"released": 0}]
        history = db.execute("select state, output, attempt, failures from run_history").fetchall()
        assert history == [{"state": "succeeded", "output": "3 pages", "attempt": int(at), "failures": 1}]
        assert db.execute("select step, output, attempt from checkpoint").fetchall() == [
            {"step": "scan", "output": {"pages": 3}, "attempt": 1}
        ]
        events = db.execute("select type from event where session_id = 's' order by seq").fetchall()
        assert [event["type"] for event in events] == ["page.read", "howdah.run.succeeded"]
        assert db.execute("select name, kind, queue from task where name like 'scan%'").fetchall() == [
            {"name": "scan.read", "kind": "workflow", "queue": "scans"}
        ]
