"""What a stop promises: a workflow that has begun tidies up, wherever it was; one that has not just ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from howdah.jobs import App, DeadlineExceededError, RetryStrategy, Run
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import cancel_runs, claim_runs
from howdah.sql.workflow.calls import NewSignal, RunItem, flush, send_signals
from tests.jobs.conftest import Work
from tests.sql.engine import new_worker, rows, running, value

_seen: list[Any] = []


@pytest.fixture(autouse=True)
def seen() -> list[Any]:
    _seen.clear()
    return _seen


async def note(what: Any) -> Any:
    """A step that shows when it is really executed."""
    _seen.append(what)
    return what


Stop = Callable[[Connection, int], Awaitable[Any]]


async def by_cancel(connection: Connection, run_id: int) -> None:
    assert await cancel_runs(connection, None, [run_id]) == {run_id: "requested"}


async def by_deadline(connection: Connection, run_id: int) -> None:
    await connection.execute("update run set deadline = now() - interval '1 s'")


stops = pytest.mark.parametrize(
    ("stop", "end"), [(by_cancel, ("cancelled", "Cancelled")), (by_deadline, ("failed", "DeadlineExceeded"))]
)


@stops
async def test_a_run_that_was_woken_and_not_yet_claimed_tidies_up(
    app: App, work: Work, connection: Connection, seen: list[Any], stop: Stop, end: tuple[str, str]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("book", note, "book")
        try:
            await run.wait_for("go")
            await run.step("pay", note, "pay")
        finally:
            await run.step("unbook", note, "unbook")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await send_signals(connection, None, [NewSignal(run_id, "go")]) == ["sent"]
    assert await rows(connection, "select state from run") == ["queued"]
    await stop(connection, run_id)
    await work(app)
    assert seen == ["book", "unbook"], "it does nothing new but that"
    assert await rows(connection, "select state, error ->> 'type' from run_history") == [end]
    assert await value(connection, "select count(*) from checkpoint where step = 'unbook'") == 1


@stops
async def test_each_branch_of_it_is_stopped_where_it_had_come_to(
    app: App, work: Work, connection: Connection, seen: list[Any], stop: Stop, end: tuple[str, str]
) -> None:
    async def branch(run: Run, name: str) -> None:
        for number in range(3):
            await run.step(f"{name} {number}", note, 0)
        await asyncio.sleep(0)
        try:
            await run.wait_for(name)
            await run.step(f"{name} goes on", note, f"{name} goes on")
        finally:
            await run.step(f"tidy {name}", note, name)

    @app.workflow(name="child", queue="small")
    async def child(run: Run, name: str) -> None:
        await branch(run, name)

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(run.children("children", child, ["child"]))
            group.create_task(branch(run, "a"))
            group.create_task(branch(run, "b"))

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    (born,) = await rows(connection, "select id from run where parent_id = %s", run_id)
    for woken, name in ((run_id, "b"), (born, "child")):
        assert await send_signals(connection, None, [NewSignal(woken, name)]) == ["sent"]
    assert await rows(connection, "select state from run") == ["queued", "queued"]
    seen.clear()
    await stop(connection, run_id)
    await work(app, queues=("default",))  # the child is between claims as its parent ends
    await work(app)
    assert sorted(seen) == ["a", "b", "child"]
    assert await rows(connection, "select state, error ->> 'type' from run_history where id = %s", run_id) == [end]
    assert await value(connection, "select count(*) from run") == 0


@stops
async def test_an_agent_that_was_just_woken_is_stopped_at_the_event_it_had_come_to(
    app: App, work: Work, connection: Connection, seen: list[Any], stop: Stop, end: tuple[str, str]
) -> None:
    @app.workflow(name="agent")
    async def agent(run: Run) -> None:
        async for event in run.events(types=["asked"]):
            await run.step("open", note, f"open {event.data}")
            try:
                await run.wait_for("go")
            finally:
                await run.step("close", note, f"close {event.data}")

    await connection.execute("select create_session('default', 's')")
    run_id = await agent.configure(session="s").enqueue_in(connection)
    for number in (1, 2):
        await connection.execute("select append_event('default', 's', 'asked', to_jsonb(%s))", [number])
        await work(app)
        await send_signals(connection, None, [NewSignal(run_id, "go")])
        if number == 1:
            await work(app)
    assert await rows(connection, "select state from run") == ["queued"]
    await stop(connection, run_id)
    await work(app)
    assert seen == ["open 1", "close 1", "open 2", "close 2"]
    assert await rows(connection, "select state, error ->> 'type' from run_history") == [end]


@stops
async def test_a_run_that_waits_for_its_next_try_tidies_up(
    app: App, work: Work, connection: Connection, seen: list[Any], stop: Stop, end: tuple[str, str]
) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=5, wait=3600))
    async def workflow(run: Run) -> None:
        try:
            await run.step("fail", fail)
        except asyncio.CancelledError:
            await run.step("unbook", note, "unbook")
            raise

    async def fail() -> None:
        seen.append("fail")
        raise ValueError("not now")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await rows(connection, "select state from run") == ["scheduled"]
    await stop(connection, run_id)
    await work(app)
    assert seen == ["fail", "unbook"]
    assert await rows(connection, "select state, error ->> 'type' from run_history") == [end]


@pytest.mark.parametrize("how", ["its worker hands it back", "its worker dies"])
async def test_a_run_that_is_taken_from_its_worker_before_it_could_tidy_up_does_so_with_the_next(
    app: App, work: Work, connection: Connection, seen: list[Any], how: str
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        try:
            await run.wait_for("go")
            await run.step("pay", note, "pay")
        finally:
            await run.step("unbook", note, "unbook")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await send_signals(connection, None, [NewSignal(run_id, "go")])
    worker = await new_worker(connection)
    (run,) = await claim_runs(connection, worker, ["default"], 1)
    await by_cancel(connection, run_id)
    if how == "its worker dies":
        await connection.execute("update worker set heartbeat_at = '-infinity'; select from rescue_runs('1 hour')")
    else:
        assert await flush(connection, [RunItem(run.id, run.attempt, "outcome", "release")]) == ["ok"]
    await work(app)
    assert seen == ["unbook"]
    assert await rows(connection, "select state from run_history") == ["cancelled"]


async def test_a_run_that_has_not_begun_or_is_asked_again_ends_at_once(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        try:
            await run.wait_for("go")
        finally:
            await run.step("tidy", note, "tidy")

    begun = await workflow.enqueue_in(connection)
    await work(app)
    await send_signals(connection, None, [NewSignal(begun, "go")])
    fresh = await workflow.enqueue_in(connection)
    assert await cancel_runs(connection, None, [begun, fresh]) == {begun: "requested", fresh: "cancelled"}
    assert await cancel_runs(connection, None, [begun]) == {begun: "cancelled"}
    assert await value(connection, "select count(*) from run") == 0
    assert seen == []


async def test_a_task_that_only_waits_for_its_next_try_ends_at_once(
    app: App, work: Work, connection: Connection
) -> None:
    @app.task(name="t", retry=RetryStrategy(max_attempts=5, wait=3600))
    async def task() -> None:
        raise ValueError("not now")

    async with app.open_async():
        run_id = await task.defer_async()
    await work(app)
    assert await cancel_runs(connection, None, [run_id]) == {run_id: "cancelled"}


async def test_a_cancel_that_is_heard_while_the_code_still_comes_to_where_it_was_does_not_cut_that_short(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("book", note, "book")
        if run.attempt > 1:
            await by_cancel(connection, run.id)  # its worker is told at once
            await asyncio.sleep(0.1)
        try:
            await run.wait_for("go")
            await run.step("pay", note, "pay")
        finally:
            await run.step("unbook", note, "unbook")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    await send_signals(connection, None, [NewSignal(run_id, "go")])
    await work(app)
    assert seen == ["book", "unbook"]
    assert await rows(connection, "select state from run_history") == ["cancelled"]


async def test_a_cancelled_parent_takes_its_children_and_their_children_along(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="leaf")
    async def leaf(run: Run, n: int) -> None:
        try:
            await run.wait_for("never")
        finally:
            await run.step("tidy leaf", note, "leaf")

    @app.workflow(name="branch")
    async def branch(run: Run, n: int) -> None:
        await run.children("leaves", leaf, [1])

    @app.workflow(name="root")
    async def root(run: Run) -> None:
        try:
            await run.children("branches", branch, [1, 2])
        finally:
            # As durable as any step: somebody cancelled the run, and it is still this attempt's.
            await run.step("tidy", note, "tidied")

    run_id = await root.enqueue_in(connection)
    await work(app)
    assert await rows(connection, "select task, state from run order by id") == [
        ("root", "waiting"), ("branch", "waiting"), ("branch", "waiting"), ("leaf", "waiting"), ("leaf", "waiting"),
    ]  # fmt: skip
    assert await cancel_runs(connection, None, [run_id]) == {run_id: "requested"}
    await work(app)
    assert seen == ["tidied", "leaf", "leaf"], "a run that goes to rest tidies nothing up"
    assert await rows(connection, "select distinct state from ops.runs") == ["cancelled"]
    assert await value(connection, "select count(*) from checkpoint where step = 'tidy'") == 1


async def test_a_deadline_wakes_a_waiting_run_and_its_children_to_tidy_up(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    async def wait(run: Run, what: str) -> None:
        try:
            await run.wait_for(what)
        finally:
            await run.step(f"tidy {what}", note, what)

    @app.workflow(name="child")
    async def child(run: Run, what: str) -> None:
        try:
            await wait(run, what)
        finally:
            # Its parent is to be stopped by the time, not by its child's failure.
            await asyncio.sleep(0.5)

    @app.workflow(name="parent", retry=5)
    async def parent(run: Run) -> None:
        await asyncio.sleep(0.02)  # repeated on each attempt, and no place to be stopped at
        try:
            # In branches: each is stopped where it waits, none before it has begun.
            await asyncio.gather(run.children("all", child, ["child"]), wait(run, "branch"), wait(run, "other branch"))
        finally:
            await run.step("tidy", note, "parent")

    run_id = await parent.configure(deadline=datetime.now(UTC) + timedelta(hours=1)).enqueue_in(connection)
    await work(app)
    assert await value(connection, "select count(distinct deadline) from run") == 1, "children have their parent's"
    await connection.execute("update run set deadline = now() - interval '1 day'")
    await work(app)
    assert sorted(seen) == ["branch", "child", "other branch", "parent"]
    assert await rows(connection, "select state, error ->> 'type' from run_history where id = %s", run_id) == [
        ("failed", "DeadlineExceeded")
    ]
    assert await value(connection, "select count(*) from run") == 0
    assert await value(connection, "select count(*) from checkpoint where step like 'tidy%'") == 4


async def test_past_its_deadline_a_run_waits_for_nothing_more(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        try:
            await run.wait_for("never")
        finally:
            try:
                await run.wait_for("nor this")
            except DeadlineExceededError as error:
                await run.step("told", note, "waits for nothing" in str(error))

    await workflow.enqueue_in(connection)
    await work(app)
    await connection.execute("update run set deadline = now() - interval '1 day'")
    await work(app)
    assert seen == [True]
    assert await rows(connection, "select state, error ->> 'type' from run_history") == [("failed", "DeadlineExceeded")]


async def test_a_run_that_was_woken_by_its_deadline_and_that_nobody_runs_ends_in_a_minute(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.wait_for("never")

    await workflow.enqueue_in(connection)
    await work(app)
    await connection.execute("update run set deadline = now() - interval '1 day'")
    assert await value(connection, "select expired from expire_runs()") == 1
    assert await value(connection, "select expired from expire_runs()") == 0
    assert await rows(connection, "select state from run") == ["queued"]
    await connection.execute("select set_config('howdah.now', (now() + interval '61 s')::text, false)")
    assert await value(connection, "select expired from expire_runs()") == 1
    assert await rows(connection, "select state, error ->> 'type' from run_history") == [("failed", "DeadlineExceeded")]


async def test_a_run_whose_worker_dies_as_it_tidies_up_has_failed_all_the_same(connection: Connection) -> None:
    (run,) = await running(connection, deadline=datetime.now(UTC) + timedelta(hours=1))
    await connection.execute("update run set deadline = now() - interval '1 day'")
    assert await value(connection, "select expired from expire_runs()") == 1, "its worker is asked"
    await connection.execute("update worker set heartbeat_at = '-infinity'; select from rescue_runs('1 hour')")
    assert await rows(connection, "select id, state, error ->> 'type' from run_history") == [
        (run.id, "failed", "DeadlineExceeded")
    ]
