"""Ordered runs of a session go one at a time, in the order in which they were enqueued."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, OnFailure, discard_runs, enqueue_runs, requeue_runs
from tests.sql.engine import claim, outcome, rows, value, write


async def _line(connection: Connection, *runs: tuple[OnFailure, datetime | None]) -> list[int]:
    enqueued = await enqueue_runs(
        connection, [NewRun("default", "t", session_id="s", order=order, deadline=deadline) for order, deadline in runs]
    )
    return [run.run_id for run in enqueued if run.run_id is not None]


@pytest.mark.parametrize("order", ["skip", "block"])
async def test_a_run_starts_when_the_one_before_it_has_ended(connection: Connection, order: OnFailure) -> None:
    for expected in await _line(connection, *[(order, None)] * 3):
        (run,) = await claim(connection)
        assert run.id == expected
        assert await claim(connection) == []
        await write(connection, outcome(run))
    assert await value(connection, "select count(*) from ordered_session") == 0


async def test_a_session_waits_for_a_failed_run_that_says_so_until_it_is_discarded_or_has_succeeded(
    connection: Connection,
) -> None:
    first, second, third = await _line(connection, *[("block", None)] * 3)
    (run,) = await claim(connection)
    await write(connection, outcome(run, "failed"))
    assert await claim(connection) == []
    assert await requeue_runs(connection, None, [first]) == {first: "requeued"}
    (run,) = await claim(connection)
    assert (run.id, run.attempt) == (first, 2)
    await write(connection, outcome(run))
    (run,) = await claim(connection)
    await write(connection, outcome(run, "failed"))
    assert await discard_runs(connection, None, [second]) == {second: "discarded"}
    assert [run.id for run in await claim(connection)] == [third]


async def test_a_run_that_is_late_before_its_turn_still_holds_what_comes_after_it(connection: Connection) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    _, second, third = await _line(connection, ("skip", None), ("block", past), ("block", None))
    (run,) = await claim(connection)
    assert await value(connection, "select expired from expire_runs()") == 0
    await write(connection, outcome(run))
    assert await value(connection, "select expired from expire_runs()") == 1
    assert await claim(connection) == []
    assert await rows(connection, "select state from ops.runs where id = any (%s) order by id", [second, third]) == [
        "failed",
        "blocked",
    ]
