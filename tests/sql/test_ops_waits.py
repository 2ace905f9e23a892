"""What operators see and do of runs that wait: what for, what was sent to them, who waits for whom; and forks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.workflow.calls import RunItem
from tests.sql.engine import checkpoint, claim, enqueue, outcome, running, value, write

FAR = datetime(2100, 1, 1, tzinfo=UTC)
APPROVAL = {"signal": "approval", "after": 0, "choices": ["approve", "reject"]}


@pytest.fixture
def operator(database_url: str) -> Iterator[psycopg.Connection[DictRow]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as opened:
        opened.execute("set search_path = public")
        yield opened


async def rest(connection: Connection, run: ClaimedRun, *awaits: dict[str, Any], until: datetime | None = None) -> None:
    """Put a running run to rest."""
    key = "session" if any("events" in what for what in awaits) else None
    body = msgspec.json.encode(awaits).decode()
    item = RunItem(run.id, run.attempt, "outcome", "wait", body, key=key, at=until)
    assert await write(connection, item) == ["ok"]


async def spawn(connection: Connection, parent: ClaimedRun, step: str, count: int) -> list[int]:
    """Children of a running run."""
    found: list[int] = await value(
        connection,
        "select child_ids from spawn_children(%s, %s, %s, %s, array_fill('c'::text, array[%s]),"
        " array_fill('{}'::text, array[%s]))",
        *(parent.id, parent.attempt, f"{step}#children-0", step, count, count),
    )
    return found


async def test_waits_shows_each_thing_that_a_run_waits_for(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    (run, other) = await running(connection, 2, session_id="case-7")
    await spawn(connection, run, "pages", 1)
    await rest(
        connection, run, APPROVAL, {"children": "pages"}, {"events": 0, "types": None}, {"sleep": "night"}, until=FAR
    )
    await rest(connection, other, {"signal": "go", "after": 0})
    found = operator.execute("select run_id, kind, name, choices, until from ops.waits").fetchall()
    assert [tuple(row.values()) for row in sorted(found, key=lambda row: row["run_id"])] == [
        (run.id, "signal", "approval", ["approve", "reject"], FAR),
        (run.id, "children", "pages", None, FAR),
        (run.id, "events", "case-7", None, FAR),
        (run.id, "time", "night", None, FAR),
        (other.id, "signal", "go", None, None),
    ]


async def test_a_signal_is_sent_seen_and_wakes_its_run(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    (run,) = await running(connection)
    await rest(connection, run, APPROVAL)

    def sends(run_id: int, payload: str) -> list[Any]:
        found = operator.execute("select * from ops.send_signal(%s, 'approval', %s)", [run_id, payload]).fetchall()
        return [tuple(row.values()) for row in found]

    assert sends(run.id, '"perhaps"') == [(run.id, "not_a_choice")]
    assert sends(7, '"approve"') == [(7, "unknown")]
    assert operator.execute("select state from ops.runs").fetchall() == [{"state": "waiting"}]
    assert sends(run.id, '"approve"') == [(run.id, "sent")]
    assert operator.execute("select * from ops.waits").fetchall() == []
    (sent,) = operator.execute("select run_id, name, no, payload, key from ops.signals").fetchall()
    assert sent == {"run_id": run.id, "name": "approval", "no": 1, "payload": "approve", "key": None}
    (again,) = await claim(connection)
    await write(connection, outcome(again))
    assert sends(run.id, '"approve"') == [(run.id, "finished")]


async def test_a_fork_keeps_steps_and_says_when_there_are_not_so_many(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    (run,) = await running(connection, args='{"a": 1}')
    for step in ("one", "two", "three"):
        await write(connection, checkpoint(run, step))
    await write(connection, outcome(run, "failed", '{"type": "ValueError"}'))
    (forked,) = operator.execute("select * from ops.fork_run(%s, 2)", [run.id]).fetchall()
    steps = operator.execute("select step from ops.steps where run_id = %s order by finished_at", [forked["run_id"]])
    assert [row["step"] for row in steps.fetchall()] == ["one", "two"]
    (again,) = await claim(connection)
    assert (again.id, again.args, again.attempt) == (forked["run_id"], '{"a": 1}', 2)
    for steps_asked, message in ((4, "has finished 3 steps, and 4 were asked for"), (-1, "cannot be forked")):
        with pytest.raises(psycopg.Error, match=message):
            operator.execute("select * from ops.fork_run(%s, %s)", [run.id, steps_asked])


async def test_a_tree_shows_descendants_level_by_level_up_to_a_limit(
    connection: Connection, operator: psycopg.Connection[DictRow]
) -> None:
    (root,) = await running(connection)
    children = await spawn(connection, root, "pages", 3)
    await enqueue(connection)
    parents = await claim(connection, 3)
    grandchildren = [id_ for run in parents if run.id in children for id_ in await spawn(connection, run, "lines", 2)]
    await write(connection, *(outcome(run, "failed", '{"type": "Oops"}') for run in parents if run.id == children[0]))
    tree = operator.execute("select run_id, parent_id, step, depth, state, error from ops.run_tree(%s)", [root.id])
    found = tree.fetchall()
    assert [row["run_id"] for row in found] == [root.id, *children, *sorted(grandchildren)]
    assert found[1] == {
        "run_id": children[0], "parent_id": root.id, "step": "pages", "depth": 1, "state": "failed", "error": "Oops",
    }  # fmt: skip
    assert {row["depth"] for row in found if row["run_id"] in grandchildren} == {2}
    (count,) = operator.execute("select count(*) from ops.run_tree(%s, 2)", [root.id]).fetchone().values()  # type: ignore[union-attr]
    assert count == 2
    assert operator.execute("select * from ops.run_tree(7)").fetchall() == []
