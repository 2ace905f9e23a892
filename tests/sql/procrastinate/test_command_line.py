"""procrastinate's own command line works on our engine: real processes, told their app by PROCRASTINATE_APP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

Command = Callable[..., str]

APP = """
import os
import pathlib
import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["TEST_CONNINFO"]))


@app.task(name="note", queue="notes", pass_context=True)
def note(context, text):
    with pathlib.Path(os.environ["TEST_NOTES"]).open("a") as notes:
        notes.write(f"{context.job.lock} {text}\\n")


@app.task(name="broken", queue="broken")
def broken():
    raise ValueError


@app.periodic(cron="* * * * * *")
@app.task(name="tick", queue="ticks", queueing_lock="tick")
def tick(timestamp):
    note.func(type("Context", (), {"job": type("Job", (), {"lock": "tick"})}), timestamp)
"""


@pytest.fixture
def environment(tmp_path: Path, conninfo: str) -> dict[str, str]:
    (tmp_path / "notes_app.py").write_text(APP)
    return {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PROCRASTINATE_APP": "notes_app.app",
        "TEST_CONNINFO": conninfo,
        "TEST_NOTES": str(tmp_path / "notes"),
    }


@pytest.fixture
def command(environment: dict[str, str]) -> Command:
    """Runs `procrastinate` with these arguments; what it printed, or said to stderr where it is refused."""

    def run(*arguments: str, refused: bool = False) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "procrastinate", *arguments],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (ended.returncode != 0) == refused, ended.stderr
        return ended.stderr if refused else ended.stdout

    return run


@pytest.fixture
def notes(environment: dict[str, str]) -> Callable[[], list[str]]:
    def read() -> list[str]:
        path = Path(environment["TEST_NOTES"])
        return path.read_text().splitlines() if path.exists() else []

    return read


def test_healthchecks_find_all_they_look_for(command: Command) -> None:
    assert command("healthchecks").splitlines() == [
        "App configuration: OK",
        "DB connection: OK",
        "Found procrastinate_jobs table: OK",
    ]


def test_jobs_deferred_from_the_shell_are_run_by_a_worker_in_their_locks_order(
    command: Command, notes: Callable[[], list[str]], db: psycopg.Connection
) -> None:
    for n in (1, 2, 3):
        command("defer", "--lock=l", f"--priority={n}", "note", json.dumps({"text": n}))
    command("defer", "--in=5400", "note", '{"text": "later"}')
    command("defer", "--at=2038-01-19T03:14:07Z", "note", '{"text": "much later"}')
    command("defer", "--unknown", "--queue=elsewhere", "nobody.knows.it", '{"a": 1}')
    command("defer", "--queueing-lock=once", "--queue=elsewhere", "note", '{"text": "once"}')
    assert "already" in command("defer", "--queueing-lock=once", "note", '{"text": "twice"}', refused=True)
    command("defer", "--queueing-lock=once", "--ignore-already-enqueued", "note", '{"text": "twice"}')
    command("worker", "--one-shot", "--queues=notes", "--concurrency=1", "--delete-jobs=never")
    assert notes() == ["l 1", "l 2", "l 3"]
    assert db.execute("select queue, task, state from run where task <> 'tick' order by id").fetchall() == [
        ("notes", "note", "scheduled"),
        ("notes", "note", "scheduled"),
        ("elsewhere", "nobody.knows.it", "queued"),
        ("elsewhere", "note", "queued"),
    ]


def test_the_administration_shell_lists_retries_and_cancels(command: Command, db: psycopg.Connection) -> None:
    command("defer", "--lock=l", "broken")
    command("worker", "--one-shot", "--queues=broken")
    command("defer", "--lock=l", "note", '{"text": "x"}')
    listed = db.execute("select id from procrastinate_jobs where lock = 'l' order by status <> 'failed'").fetchall()
    (failed,), (waiting,) = listed
    counted = "todo: 1, doing: 0, succeeded: 0, failed: 1, cancelled: 0, aborted: 0)"
    assert command("shell", "list_locks").strip() == f"l: 2 jobs ({counted}"
    assert command("shell", "list_queues", "status=failed").startswith("broken: 1 jobs")
    assert command("shell", "list_tasks", "lock=l").splitlines()[1].startswith("note: 1 jobs")
    assert f"#{failed} broken on broken - [failed] (attempts=1" in command(
        "shell", "list_jobs", "task=broken", "details"
    )
    assert command("shell", "retry", str(failed)).strip() == f"#{failed} broken on broken - [todo]"
    assert command("shell", "cancel", str(waiting)).strip() == f"#{waiting} note on notes - [cancelled]"
    assert f"#{failed} broken on broken - [todo]" in command("shell", "list_jobs", "status=todo")


def test_a_worker_process_defers_its_periodic_task_runs_what_comes_and_leaves_at_sigterm(
    environment: dict[str, str], command: Command, notes: Callable[[], list[str]], db: psycopg.Connection
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "procrastinate", "worker"], env=environment, stderr=subprocess.PIPE
    )
    try:
        command("defer", "--lock=l", "note", '{"text": "hello"}')
        deadline = time.monotonic() + 60
        while not ("l hello" in notes() and sum(line.startswith("tick ") for line in notes()) >= 2):
            assert time.monotonic() < deadline
            assert worker.poll() is None
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.communicate()
    ticks = [line for line in notes() if line.startswith("tick ")]
    assert len(ticks) == len(set(ticks))
    assert db.execute("select count(*) from worker").fetchone() == (0,)
    assert db.execute("select count(*) from run where state = 'running'").fetchone() == (0,)
