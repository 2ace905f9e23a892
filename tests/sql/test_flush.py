"""What a flush promises: stale writers are refused, nothing is written twice, and one slow caller stalls nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.stream.calls import read_events
from howdah.sql.workflow import calls
from howdah.sql.workflow.calls import ItemStatus, RunItem, flush, read_checkpoints
from tests.sql.engine import checkpoint, claim, connect, enqueue, event, outcome, rows, running, states, value, write


async def second_attempt(connection: Connection, run: ClaimedRun) -> ClaimedRun:
    """The run, taken from its worker and claimed again."""
    await connection.execute("select * from unregister_worker((select worker_id from run where id = %s))", [run.id])
    (again,) = await claim(connection)
    assert (again.id, again.attempt) == (run.id, run.attempt + 1)
    return again


async def numbers(connection: Connection, session: str, tenant: str = "default") -> list[int]:
    return [event.seq for event in await read_events(connection, tenant, session, limit=10_000)]


async def test_a_stale_attempt_is_refused_and_writes_nothing(connection: Connection) -> None:
    (old,) = await running(connection)
    await second_attempt(connection, old)
    assert await write(connection, checkpoint(old), event(old), outcome(old)) == ["stale", "stale", "stale"]
    assert await states(connection) == [(old.id, "running")]
    assert await value(connection, "select count(*) from checkpoint") == 0
    assert await value(connection, "select count(*) from event") == 0


@pytest.mark.parametrize(("kind", "name"), [("outcome", "suceeded"), ("check", "s"), ("checkpoint", None)])
async def test_what_no_flush_knows_is_refused_instead_of_taken_for_written(
    connection: Connection, kind: str, name: str | None
) -> None:
    (run,) = await running(connection)
    unknown: Any = RunItem(run.id, run.attempt, kind, name, "1")  # type: ignore[arg-type]
    with pytest.raises(psycopg.Error, match=f"cannot be written: {kind} {name or 'null'}") as refused:
        await flush(connection, [checkpoint(run), unknown])
    assert refused.value.sqlstate == "HW016"
    assert await value(connection, "select count(*) from checkpoint") == 0


@pytest.mark.parametrize(
    "body",
    [
        None, "null", "7", "[]", '["signal"]', "[7]", '{"signal": "go", "after": 0}', '[{"signal": "go"}]',
        '[{"signal": 7, "after": 0}]', '[{"signal": "go", "after": -1}]', '[{"sleep": "s"}]', '[{"children": null}]',
        '[{"events": "x"}]', '[{"events": 1, "types": "said"}]', '[{"signal": "go", "after": 0}, {"event": 1}]',
    ],
)  # fmt: skip
async def test_a_wait_that_is_not_understood_is_refused(connection: Connection, body: str | None) -> None:
    (run,) = await running(connection)
    with pytest.raises(psycopg.Error, match="a run cannot wait for this") as refused:
        await write(connection, RunItem(run.id, run.attempt, "outcome", "wait", body))
    assert refused.value.sqlstate == "HW016"
    assert await states(connection) == [(run.id, "running")]


async def test_a_stale_item_does_not_fail_its_neighbours(connection: Connection) -> None:
    old, neighbour = await running(connection, 2)
    unknown = RunItem(12345, 1, "checkpoint", "s", "1")
    stale = RunItem(old.id, old.attempt + 1, "checkpoint", "s", "1")
    statuses = await write(connection, stale, checkpoint(neighbour), unknown, outcome(neighbour))
    assert statuses == ["stale", "ok", "stale", "ok"]
    assert await rows(connection, "select run_id from checkpoint") == [neighbour.id]
    assert await states(connection) == [(old.id, "running"), (neighbour.id, "succeeded")]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_an_old_and_a_new_attempt_in_one_batch_are_told_apart(
    connection: Connection, order: Sequence[int]
) -> None:
    (old,) = await running(connection)
    new = await second_attempt(connection, old)
    batches = [
        [checkpoint(old, "a", '"old"'), event(old, body='{"by": "old"}'), outcome(old, "failed")],
        [checkpoint(new, "b", '"new"'), event(new, body='{"by": "new"}')],
    ]
    statuses = await write(connection, *batches[order[0]], *batches[order[1]])
    assert [(len(b), set(s)) for b, s in zip(batches, _split(statuses, order), strict=True)] == [
        (3, {"stale"}),
        (2, {"ok"}),
    ]
    assert await rows(connection, "select output from checkpoint") == ["new"]
    assert await rows(connection, "select data ->> 'by' from event") == ["new"]
    assert await states(connection) == [(old.id, "running")]


def _split(statuses: Sequence[ItemStatus], order: Sequence[int]) -> list[Sequence[ItemStatus]]:
    return [statuses[:3], statuses[3:]] if tuple(order) == (0, 1) else [statuses[2:], statuses[:2]]


async def test_a_checkpoint_sent_twice_by_one_attempt_is_written_once(connection: Connection) -> None:
    (run,) = await running(connection)
    assert await write(connection, checkpoint(run)) == ["ok"]
    assert await write(connection, checkpoint(run, body="2")) == ["ok"]
    (kept,) = await read_checkpoints(connection, [run.id])
    assert (kept.step, kept.output, kept.attempt) == ("s", "1", 1)
    assert await value(connection, "select repeats from checkpoint") == 0


async def test_a_step_finished_again_by_a_later_attempt_is_told_and_the_first_output_stays(
    connection: Connection,
) -> None:
    (old,) = await running(connection)
    await write(connection, checkpoint(old, body="1"))
    new = await second_attempt(connection, old)
    assert await write(connection, checkpoint(new, body="2"), checkpoint(new, "t")) == ["repeated", "ok"]
    kept = await read_checkpoints(connection, [new.id])
    assert [(c.step, c.output, c.attempt) for c in kept] == [("s", "1", 1), ("t", "1", 2)]
    assert await rows(connection, "select repeats from ops.steps order by step") == [1, 0]


async def test_a_checkpoint_tells_when_its_step_started(connection: Connection) -> None:
    (run,) = await running(connection)
    at = datetime(2030, 1, 1, tzinfo=UTC)
    await flush(connection, [RunItem(run.id, 1, "checkpoint", "s", "1", at=at)])
    (kept,) = await read_checkpoints(connection, [run.id])
    assert kept.started_at == at


async def test_events_have_no_gap_and_no_repeat_under_concurrency(connection: Connection, conninfo: str) -> None:
    runs = await running(connection, 8, session_id="case")

    async def writer(run: ClaimedRun) -> None:
        async with await connect(conninfo) as own:
            left = [event(run, key=f"{run.id}/{number}") for number in range(30)]
            while left:
                statuses = await flush(own, left[:5])
                # What was written is sent once more, as after a lost answer.
                left = [i for i, s in zip(left[:5], statuses, strict=True) if s == "busy"] + left[5:]

    await asyncio.gather(*(writer(run) for run in (*runs, *runs)))
    assert await numbers(connection, "case") == list(range(1, 8 * 30 + 1))
    assert await value(connection, "select count(distinct key) from event") == 8 * 30
    assert await value(connection, "select last_seq from session") == 8 * 30


async def test_an_events_key_is_written_once_also_within_a_batch(connection: Connection) -> None:
    (run,) = await running(connection, session_id="case")
    twice = [event(run, "a", key="k"), event(run, "b", key="k"), event(run, "c")]
    assert await write(connection, *twice) == ["ok", "ok", "ok"]
    assert await write(connection, event(run, "d", key="k")) == ["ok"]
    assert [(e.seq, e.type) for e in await read_events(connection, "default", "case")] == [(1, "a"), (2, "c")]


async def test_the_same_session_name_of_two_tenants_is_two_sessions(connection: Connection) -> None:
    await connection.execute("select * from create_tenant('acme')")
    (ours,) = await running(connection, session_id="case")
    (theirs,) = await running(connection, tenant="acme", session_id="case")
    await write(connection, event(ours, "ours"), event(theirs, "theirs"))
    assert [e.type for e in await read_events(connection, "acme", "case")] == ["theirs"]
    assert await numbers(connection, "case") == [1]


async def test_events_of_a_run_without_session_go_to_its_own(connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, event(run), event(run))
    assert await numbers(connection, f"run:{run.id}") == [1, 2]


async def test_a_held_session_makes_its_runs_busy_and_nobody_else(connection: Connection, conninfo: str) -> None:
    (held,) = await running(connection, session_id="held")
    (free,) = await running(connection, session_id="free")
    items = [checkpoint(held), event(held), outcome(held), event(free), outcome(free)]
    async with await connect(conninfo) as slow:
        await slow.execute("select * from create_session('default', 'held')")
        async with slow.transaction():
            await slow.execute("select * from append_event('default', 'held', 'slow')")
            await connection.execute("set lock_timeout = '5s'")
            assert await write(connection, *items) == ["busy", "busy", "busy", "ok", "ok"]
            assert await value(connection, "select count(*) from checkpoint") == 0
    assert await write(connection, *items[:3]) == ["ok", "ok", "ok"]
    assert [e.type for e in await read_events(connection, "default", "held")] == ["slow", "noted"]


async def test_a_held_run_is_busy_and_nobody_else(connection: Connection, conninfo: str) -> None:
    held, free = await running(connection, 2)
    async with await connect(conninfo) as slow, slow.transaction():
        await slow.execute("select from run where id = %s for no key update", [held.id])
        await connection.execute("set lock_timeout = '5s'")
        assert await write(connection, checkpoint(held), outcome(held), outcome(free)) == ["busy", "busy", "ok"]
    assert await write(connection, checkpoint(held), outcome(held)) == ["ok", "ok"]


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
async def test_a_final_outcome_moves_the_run_to_history(connection: Connection, state: str) -> None:
    (run,) = await running(connection, args='{"a": 1}')
    body = '{"type": "ValueError", "message": "bad"}'
    assert await write(connection, outcome(run, state, body)) == ["ok"]
    assert await value(connection, "select count(*) from run") == 0
    ((id_, got, attempt, failures, output, error),) = await rows(
        connection, "select id, state, attempt, failures, output, error from run_history"
    )
    assert (id_, got, attempt, failures) == (run.id, state, 1, int(state == "failed"))
    assert (output is None, error is None) == (state != "succeeded", state == "succeeded")


async def test_a_retry_counts_a_failure_and_waits_for_its_time(connection: Connection) -> None:
    (run,) = await running(connection)
    at = datetime.now(UTC) + timedelta(hours=1)
    assert await write(connection, outcome(run, "retry", '{"message": "bad"}', at)) == ["ok"]
    ((state, failures, run_at, error),) = await rows(connection, "select state, failures, run_at, error from run")
    assert (state, failures, run_at, error) == ("scheduled", 1, at, {"message": "bad"})


async def test_a_retry_that_is_due_is_queued_at_once(connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, outcome(run, "retry", at=datetime.now(UTC) - timedelta(seconds=1)))
    (again,) = await claim(connection)
    assert (again.id, again.attempt, again.failures) == (run.id, 2, 1)


@pytest.mark.parametrize("later", [False, True])
async def test_a_retry_may_change_priority_and_queue(connection: Connection, later: bool) -> None:
    moved, kept = await running(connection, 2, priority=3)
    at = datetime.now(UTC) + timedelta(hours=1 if later else -1)
    change = '{"priority": -7, "queue": "slow"}'
    retry = RunItem(moved.id, moved.attempt, "outcome", "retry", "null", change, at)
    other = RunItem(kept.id, kept.attempt, "outcome", "retry", "null", '{"priority": 4}', at)
    assert await write(connection, retry, other, event(kept, key="no JSON")) == ["ok", "ok", "ok"]
    assert await rows(connection, "select queue, priority from run order by id") == [("slow", -7), ("default", 4)]
    if not later:
        assert [run.id for run in await claim(connection, queue="slow")] == [moved.id]
        assert [run.id for run in await claim(connection)] == [kept.id]


async def test_the_queue_that_a_retry_goes_to_hears_of_it_from_the_flush(connection: Connection, conninfo: str) -> None:
    (run,) = await running(connection)
    async with await connect(conninfo) as listener:
        await listener.execute('listen "howdah.runs"')
        retry = RunItem(run.id, run.attempt, "outcome", "retry", "null", '{"queue": "slow"}')
        await flush(connection, [retry], notify=False)
        assert [heard.payload async for heard in listener.notifies(timeout=5, stop_after=1)] == ["slow"]


async def test_a_retry_frees_the_slot_of_the_queue_that_it_leaves(connection: Connection) -> None:
    await connection.execute("""select set_queue_limits('default', '{"max_running_per_tenant": 1}')""")
    first, second = await enqueue(connection, 2)
    (run,) = await claim(connection)
    assert await claim(connection) == []
    await write(connection, RunItem(run.id, run.attempt, "outcome", "retry", "null", '{"queue": "slow"}'))
    assert [run.id for run in await claim(connection)] == [second]
    assert [run.id for run in await claim(connection, queue="slow")] == [first]


@pytest.mark.parametrize(("name", "state"), [("reschedule", "scheduled"), ("release", "queued")])
async def test_to_wait_or_to_be_handed_back_is_no_failure(connection: Connection, name: str, state: str) -> None:
    (run,) = await running(connection)
    at = datetime.now(UTC) + timedelta(hours=1) if name == "reschedule" else None
    assert await write(connection, outcome(run, name, at=at)) == ["ok"]
    assert await rows(connection, "select state, failures, worker_id from run") == [(state, 0, None)]


async def test_a_flush_repeated_after_a_lost_answer_is_ok_and_writes_nothing_twice(connection: Connection) -> None:
    (run,) = await running(connection)
    items = [checkpoint(run), event(run, key="k"), outcome(run)]
    assert await write(connection, *items) == ["ok", "ok", "ok"]
    assert await write(connection, *items) == ["ok", "ok", "ok"]
    assert await states(connection) == [(run.id, "succeeded")]
    assert await numbers(connection, f"run:{run.id}") == [1]
    assert await rows(connection, "select repeats from checkpoint") == [0]


async def test_another_attempts_outcome_is_not_taken_for_a_lost_answer(connection: Connection) -> None:
    (old,) = await running(connection)
    new = await second_attempt(connection, old)
    assert await write(connection, outcome(new)) == ["ok"]
    assert await write(connection, outcome(old, "failed"), outcome(new)) == ["stale", "ok"]
    assert await states(connection) == [(old.id, "succeeded")]


async def test_a_body_that_is_no_json_fails_the_batch_and_writes_nothing(connection: Connection) -> None:
    good, bad = await running(connection, 2)
    with pytest.raises(psycopg.DataError):
        await write(connection, outcome(good), checkpoint(bad, body="{"))
    assert [state for _, state in await states(connection)] == ["running", "running"]


async def test_crossing_flushes_never_deadlock(connection: Connection, conninfo: str) -> None:
    runs = [(await running(connection, session_id=f"case-{number}"))[0] for number in range(6)]

    async def writer(order: list[ClaimedRun]) -> None:
        async with await connect(conninfo) as own:
            for _ in range(20):
                await flush(own, [item for run in order for item in (event(run), checkpoint(run))])

    await asyncio.gather(writer(runs), writer(runs[::-1]), writer(runs[3:] + runs[:3]))
    await enqueue(connection)
    for number in range(6):
        seen = await numbers(connection, f"case-{number}")
        assert seen == list(range(1, len(seen) + 1))


@pytest.mark.parametrize("page", [2, 3, 10_000])
async def test_steps_are_read_a_page_at_a_time_and_none_is_left_out(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    runs = await running(connection, 2)
    steps = [(run.id, f"s[{number}]") for run in runs for number in range(6)]
    await flush(connection, [checkpoint(run, f"s[{number}]") for run in runs for number in range(6)])
    monkeypatch.setattr(calls, "PAGE", page)
    assert [(found.run_id, found.step) for found in await read_checkpoints(connection, [r.id for r in runs])] == steps


async def test_ten_thousand_steps_of_a_run_are_read_back(connection: Connection) -> None:
    (run,) = await running(connection)
    for start in range(0, 10_500, 500):
        await flush(connection, [checkpoint(run, f"s[{number}]") for number in range(start, start + 500)])
    found = await read_checkpoints(connection, [run.id])
    assert len({each.step for each in found}) == len(found) == 10_500
