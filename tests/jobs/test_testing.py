"""What the testing kit promises: the real engine, an hour in no time, death at any step, replays that write nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from howdah.jobs import App, ChildrenFailedError, HistoryContradictedError, RetryStrategy, Run, SignalTimeoutError
from howdah.jobs.testing import Kit
from howdah.sql.errors import WrongState
from howdah.sql.pool import Connection
from tests.sql.engine import rows, value

HOUR = timedelta(hours=1)

executed: list[Any] = []


async def note(what: Any) -> Any:
    """A step that shows when it is really executed."""
    executed.append(what)
    return what


async def fail(what: str) -> None:
    executed.append(what)
    raise ConnectionError(what)


@pytest.fixture
def kit(database_url: str) -> Iterator[Kit]:
    executed.clear()
    with Kit(App(), database_url) as kit:
        yield kit


async def test_a_run_is_seen_with_its_steps_and_what_it_returned(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run, name: str) -> list[str]:
        await run.progress(0.5)
        return [await run.step("a", note, name), await run.step("a", note, "again"), *await run.map("m", note, ["x"])]

    result = await kit.run(workflow, "first")
    assert (result.state, result.output, result.attempt) == ("succeeded", ["first", "again", "x"], 1)
    assert {name: (step.output, step.attempt) for name, step in result.steps.items()} == {
        "a": ("first", 1),
        "a#2": ("again", 1),
        "m[0]": ("x", 1),
    }
    assert [event.type for event in await kit.events(result.run_id)] == ["howdah.progress", "howdah.run.succeeded"]


async def test_the_output_of_a_run_that_failed_tells_why(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("a", fail, "no route")

    result = await kit.run(workflow)
    assert (result.state, result.steps) == ("failed", {})
    assert result.error is not None
    assert (result.error.type, result.error.message) == ("ConnectionError", "no route")
    with pytest.raises(AssertionError, match=r"it is failed: ConnectionError: no route\nTraceback"):
        _ = result.output


async def test_hours_pass_at_once_for_the_engine_and_for_the_run(kit: Kit, connection: Connection) -> None:
    @kit.app.workflow(name="w", retry=RetryStrategy(max_attempts=2, wait=3600))
    async def workflow(run: Run) -> str:
        await run.sleep("night", 8 * HOUR)
        if run.failures == 0:
            raise ConnectionError
        await run.step("own retry", fail_once, retry=RetryStrategy(max_attempts=2, wait=3600))
        try:
            await run.wait_for("approval", timeout=48 * HOUR)
        except SignalTimeoutError:
            return "late"
        return "in time"

    async def fail_once() -> None:
        if not executed:
            await fail("once")

    began = time.monotonic()
    run_id = await kit.start(workflow)
    states = []
    for hours in (0, 7, 1, 1, 1, 47, 1):
        await kit.advance(hours * HOUR)
        await kit.work()
        states.append((await kit.result(run_id)).state)
    assert states == ["waiting", "waiting", "scheduled", "waiting", "waiting", "waiting", "succeeded"]
    assert (await kit.result(run_id)).output == "late"
    assert time.monotonic() - began < 20
    took = await value(connection, "select finished_at - run_created_at(id) from run_history")
    assert timedelta(hours=58) < took < timedelta(hours=58, minutes=1)
    assert abs(kit.now - await value(connection, "select engine_now()")) < timedelta(seconds=1)


async def test_what_time_it_is_stays_the_same_on_each_attempt(kit: Kit) -> None:
    told: list[list[datetime]] = []

    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> bool:
        first = await run.now()
        await run.sleep("night", 8 * HOUR)
        told.append([first, await run.now()])
        await run.step("last", note, "last")
        return first.tzinfo is UTC

    began = kit.now
    run_id = (await kit.run(workflow)).run_id
    await kit.advance(8 * HOUR)
    kit.kill_at("last")
    await kit.work()
    await kit.advance(HOUR)
    await kit.work()
    assert (await kit.result(run_id)).output is True
    assert told[0] == told[1]
    assert [round((moment - began) / HOUR) for moment in told[0]] == [0, 8]
    await kit.replay(run_id)
    assert told[2] == told[1]


async def test_a_clock_does_not_go_back(kit: Kit) -> None:
    with pytest.raises(ValueError, match="cannot go back by 1:00:00"):
        await kit.advance(-HOUR)


async def test_a_deadline_passes(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.sleep("long", 100 * HOUR)

    run_id = await kit.start(workflow.configure(deadline=kit.now + HOUR))
    await kit.work()
    await kit.advance(2 * HOUR)
    await kit.work()
    result = await kit.result(run_id)
    assert result.state == "failed"
    assert result.error is not None
    assert result.error.type == "DeadlineExceeded"


async def test_a_schedule_fires_when_its_moment_has_passed(kit: Kit) -> None:
    @kit.app.periodic(cron="30 4 * * *")
    @kit.app.task(name="daily")
    async def daily(timestamp: int) -> None:
        await note("daily")

    await kit.advance(timedelta(0))
    await kit.work()
    assert executed == []
    for _ in range(2):
        await kit.advance(24 * HOUR)
        await kit.work()
    assert executed == ["daily", "daily"]


async def test_what_a_worker_does_by_itself_needs_no_second_call(kit: Kit) -> None:
    @kit.app.workflow(name="child")
    async def child(run: Run, number: int) -> int:
        return await run.step("s", note, number)

    @kit.app.workflow(name="parent")
    async def parent(run: Run) -> int:
        return sum(await run.children("fan", child, range(20)))

    assert (await kit.run(parent)).output == 190


async def test_what_is_due_as_work_begins_is_done_by_it(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("s", note, 1)

    await kit.start(workflow.configure(run_at=kit.now + timedelta(milliseconds=30)))
    await asyncio.sleep(0.04)
    await kit.work()
    assert executed == [1]


async def test_signals_and_cancellations_reach_a_run_that_waits(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> str:
        try:
            choice: str = await run.wait_for("approval", str, choices=["yes", "no"])
        finally:
            await run.step("tidy", note, "tidy")
        return choice

    first, second = await kit.start(workflow), await kit.start(workflow)
    await kit.work()
    assert await kit.signal(first, "approval", "perhaps") == "not_a_choice"
    assert await kit.signal(first, "approval", "yes") == "sent"
    await kit.cancel(second)
    await kit.work()
    assert (await kit.result(first)).output == "yes"
    cancelled = await kit.result(second)
    assert (cancelled.state, list(cancelled.steps)) == ("cancelled", ["tidy"])
    assert await kit.signal(first, "approval", "no") == "finished"


@pytest.mark.parametrize(
    ("step", "when", "calls", "attempts"),
    [
        ("b", "before", ["a", "b", "b", "c"], [1, 2, 2]),
        ("b", "after", ["a", "b", "c"], [1, 1, 2]),
        (1, "before", ["a", "a", "b", "c"], [2, 2, 2]),
        (3, "after", ["a", "b", "c"], [1, 1, 1]),
    ],
)
async def test_a_killed_run_comes_back_at_the_step_it_was_killed_at(
    kit: Kit, connection: Connection, step: str | int, when: Any, calls: list[str], attempts: list[int]
) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> str:
        for name in "abc":
            await run.step(name, note, name)
        await run.emit("said")
        return "end"

    kit.kill_at(step, when=when)
    run_id = await kit.start(workflow)
    await kit.work()
    assert await rows(connection, "select state, attempt, deaths from run") == [("running", 1, 0)], (
        "nothing more is said"
    )
    assert await value(connection, "select count(*) from event") == 0
    await kit.work()
    result = await kit.result(run_id)
    assert (result.output, result.attempt) == ("end", 2)
    assert executed == calls
    assert [done.attempt for done in result.steps.values()] == attempts
    assert await value(connection, "select deaths from run_history") == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_transaction_is_killed_with_its_checkpoint_or_after_it(
    kit: Kit, connection: Connection, when: Any
) -> None:
    await connection.execute("create table public.paid (amount integer)")

    async def pay(with_: Connection) -> int:
        await with_.execute("insert into public.paid values (7)")
        return await note(7)

    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> int:
        return await run.transaction("pay", pay)

    kit.kill_at("pay", when=when)
    run_id = await kit.start(workflow)
    await kit.work()
    assert await value(connection, "select count(*) from public.paid") == (when == "after")
    await kit.work()
    assert (await kit.result(run_id)).output == 7
    assert (await rows(connection, "select * from public.paid"), len(executed)) == ([7], 2 if when == "before" else 1)


async def test_what_runs_beside_a_killed_step_dies_too(kit: Kit) -> None:
    async def slow(name: str) -> str:
        await asyncio.sleep(0.05)
        return await note(name)

    async def deaf(name: str) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        return name

    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> list[str]:
        try:
            return await asyncio.gather(
                run.step("deaf", deaf, "deaf"), run.step("slow", slow, "slow"), run.step("fast", note, "fast")
            )
        except asyncio.CancelledError:
            return ["survived"]

    @kit.app.workflow(name="other")
    async def other(run: Run) -> str:
        return await run.step("slow", slow, "other")

    kit.kill_at("fast")
    run_ids = [await kit.start(workflow), await kit.start(other)]
    await kit.work()
    assert [(await kit.result(run_id)).state for run_id in run_ids] == ["running", "running"]
    assert executed == ["fast"]
    assert [await kit.steps(run_id) for run_id in run_ids] == [{}, {}]
    await kit.work()
    assert [(await kit.result(run_id)).output for run_id in run_ids] == [["deaf", "slow", "fast"], "other"]


async def test_a_run_may_be_killed_again_and_again_until_it_counts_as_poison(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> int:
        await run.step("s", note, 1)
        return run.attempt

    run_id = await kit.start(workflow)
    for _ in range(6):
        kit.kill_at("s")
        await kit.work()
        assert (await kit.result(run_id)).state == "running"
    kit.kill_at("s")
    await kit.work()
    await kit.work()
    error = (await kit.result(run_id)).error
    assert error is not None
    assert error.type == "WorkerDied"


async def test_an_order_to_kill_that_nothing_came_to_is_told(database_url: str) -> None:
    app = App()

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("right", note, 1)

    kit = Kit(app, database_url).__enter__()
    kit.kill_at("wrong")
    with pytest.raises(ValueError, match="at 'wrong' already"):
        kit.kill_at("right")
    await kit.run(workflow)
    with pytest.raises(AssertionError, match="no run came to the step 'wrong'"):
        kit.__exit__(None, None, None)


async def test_the_app_sends_to_the_tests_database_and_so_do_its_runs(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run, more: bool) -> None:
        if more:
            await run.step("send", workflow.enqueue, more=False)
        await run.step("s", note, more)

    for _ in range(2):  # each worker with a pool of its own
        async with kit.app.open_async():
            await workflow.enqueue(more=True)
        await kit.work()
    assert sorted(executed) == [False, False, True, True]


async def test_work_that_does_not_end_is_told(database_url: str) -> None:
    app = App()

    @app.workflow(name="stuck")
    async def workflow(run: Run) -> None:
        await asyncio.Event().wait()

    with Kit(app, database_url, patience=timedelta(seconds=0.5)) as kit:
        run_id = await kit.start(workflow)
        with pytest.raises(TimeoutError, match=f"run {run_id} of 'stuck'"):
            await kit.work()


async def test_a_replay_asks_for_the_same_and_writes_nothing(kit: Kit, connection: Connection) -> None:
    calls = 0

    @kit.app.workflow(name="child")
    async def child(run: Run, number: int) -> int:
        if number == 2:
            raise ValueError
        return number

    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> list[Any]:
        nonlocal calls
        calls += 1
        await run.emit("said", 1)
        got = [await run.step("a", note, 1), await run.wait_for("go", int), *await run.map("m", note, [1, 2])]
        try:
            await run.step("refused", fail, "refused")
        except ConnectionError:
            got.append(await run.step("instead", note, 3))
        try:
            await run.children("fan", child, [1, 2])
        except ChildrenFailedError:
            await run.sleep("pause", HOUR)
        return [*got, await run.children("more", child, [5])]

    run_id = await kit.start(workflow)
    await kit.work()
    await kit.signal(run_id, "go", 2)
    with pytest.raises(WrongState, match="is queued"):
        await kit.replay(run_id)
    await kit.work()
    await kit.advance(HOUR)
    await kit.work()
    result = await kit.result(run_id)
    assert result.output == [1, 2, 1, 2, 3, [5]]
    before, seen = list(executed), calls
    counts = (
        "select (select count(*) from run_history), (select count(*) from run), (select count(*) from event),"
        " (select array_agg((step, attempt, repeats)::text) from checkpoint)"
    )
    kept = await rows(connection, counts)
    await kit.replay(run_id)
    assert calls == seen + 1
    assert executed == before
    assert await rows(connection, counts) == kept


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ("one more", "asks for step 'c', which it has not finished; it has a, b"),
        ("one more, and no word of it", "asks for step 'c'"),
        ("one fewer", "it finished 'b', and the code now ended without asking for it"),
        ("swapped", "step 'b' finished after 'a', and the code now asks for it after 'the start'"),
        ("an error", "has succeeded, and the code now raises KeyError"),
    ],
)
async def test_a_replay_of_code_that_asks_for_other_steps_is_refused(kit: Kit, later: str, message: str) -> None:
    async def began(run: Run) -> None:
        await run.step("a", note, 1)
        await run.step("b", note, 2)

    async def present(run: Run) -> None:
        if later == "swapped":
            await run.step("b", note, 2)
        await run.step("a", note, 1)
        if later == "one fewer":
            return
        await run.step("b", note, 2)
        if later == "one more":
            await run.step("c", note, 3)
        if later == "one more, and no word of it":
            try:
                await run.step("c", note, 3)
            except Exception:
                await asyncio.sleep(0)
        if later == "an error":
            raise KeyError

    result = await kit.run(kit.app.workflow(name="w")(began))
    await kit.replay(result.run_id)
    with pytest.raises(HistoryContradictedError, match=message):
        await kit.replay(result.run_id, App().workflow(name="w")(present))
    assert executed == [1, 2], "no step ran"


async def test_a_run_that_failed_is_replayed_up_to_its_failure(kit: Kit) -> None:
    @kit.app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("a", note, 1)
        await run.step("b", fail, "b")

    result = await kit.run(workflow)
    assert result.state == "failed"
    await kit.replay(result.run_id)

    @App().workflow(name="w")
    async def without(run: Run) -> None:
        await run.step("b", fail, "b")

    with pytest.raises(HistoryContradictedError, match="it finished 'a'"):
        await kit.replay(result.run_id, without)
