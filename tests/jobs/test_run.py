"""What a step promises: once, typed, in order; and that what cannot be stored fails the run with a reason."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from howdah.jobs import App, NonRetryableError, RetryStrategy, Run
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import requeue_runs
from tests.jobs.conftest import Work
from tests.loopback_receiver import Receiver, Reply
from tests.sql.engine import connect, rows, value


@dataclass(frozen=True)
class Measured:
    pages: int
    at: datetime


class Quote(msgspec.Struct, frozen=True):
    text: str
    price: Decimal


OUTPUTS: list[Any] = [
    Measured(3, datetime(2030, 1, 2, tzinfo=UTC)),
    Quote("must disclose", Decimal("0.10")),
    datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    Decimal("12.340"),
    b"\x00\xff",
    [Quote("a", Decimal(1))],
    {"a": (1, 2)},
    None,
    1.5,
]
TYPES: list[Any] = [
    Measured, Quote, datetime, Decimal, bytes, list[Quote], dict[str, tuple[int, int]], None, float,
]  # fmt: skip

_seen: list[Any] = []


class _Once(Exception):
    """What a workflow of these tests raises at its first attempt."""


@pytest.fixture(autouse=True)
def seen() -> list[Any]:
    _seen.clear()
    return _seen


def fail_first(run: Run) -> None:
    if run.attempt == 1:
        raise _Once


async def outcome(connection: Connection, run_id: int) -> Any:
    ((state, output, error),) = await rows(
        connection, "select state, output, error from run_history where id = %s", run_id
    )
    return output if state == "succeeded" else (state, error)


@pytest.mark.parametrize(("output", "type_"), list(zip(OUTPUTS, TYPES, strict=True)), ids=map(str, range(len(TYPES))))
async def test_a_steps_output_has_its_type_again_on_a_replay(
    app: App, work: Work, connection: Connection, seen: list[Any], output: Any, type_: Any
) -> None:
    def step() -> Any:
        seen.append("executed")
        return output

    step.__annotations__["return"] = type_

    @app.workflow(name="w", retry=RetryStrategy(max_attempts=1))
    async def workflow(run: Run) -> None:
        seen.append(await run.step("s", step))
        fail_first(run)

    await workflow.enqueue_in(connection)
    await work(app)
    assert seen == ["executed", output, output]
    assert type(seen[1]) is type(seen[2])


async def test_a_retry_executes_only_what_was_not_finished(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    def step(name: str) -> str:
        seen.append(name)
        return name

    @app.workflow(name="w", retry=RetryStrategy(max_attempts=3))
    async def workflow(run: Run) -> list[str]:
        first = await run.step("first", step, "first")
        fail_first(run)
        return [first, await run.step("second", step, "second")]

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert seen == ["first", "second"]
    assert await outcome(connection, run_id) == ["first", "second"]
    assert await rows(connection, "select step, attempt, repeats from checkpoint order by step") == [
        ("first", 1, 0),
        ("second", 2, 0),
    ]
    assert await value(connection, "select failures from run_history") == 1


async def test_a_requeued_run_goes_on_from_its_last_finished_step(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("s", lambda: seen.append("executed"))
        fail_first(run)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert (await outcome(connection, run_id))[0] == "failed"
    await requeue_runs(connection, "default", [run_id])
    await work(app)
    assert await outcome(connection, run_id) is None
    assert seen == ["executed"]


async def test_a_step_name_in_a_loop_is_numbered(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=1))
    async def workflow(run: Run) -> list[int]:
        squares = [await run.step("square", lambda n=n: n * n) for n in range(4)]
        fail_first(run)
        return squares

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await outcome(connection, run_id) == [0, 1, 4, 9]
    assert await rows(connection, "select step from checkpoint order by step") == [
        "square", "square#2", "square#3", "square#4",
    ]  # fmt: skip


async def test_parallel_steps_run_at_the_same_time(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> list[int]:
        met = asyncio.Barrier(3)

        async def step(n: int) -> int:
            await met.wait()
            return n

        return list(await asyncio.gather(*(run.step(f"s{n}", step, n) for n in range(3))))

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await outcome(connection, run_id) == [0, 1, 2]


async def test_a_function_that_is_not_async_does_not_hold_the_others(
    app: App, work: Work, connection: Connection
) -> None:
    met = threading.Barrier(2, timeout=10)

    @app.workflow(name="w")
    async def workflow(run: Run) -> str:
        def step() -> str:
            met.wait()
            return threading.current_thread().name

        return await run.step("s", step)

    ids = [await workflow.enqueue_in(connection) for _ in range(2)]
    await work(app)
    assert all([(await outcome(connection, run_id)).startswith("howdah-step") for run_id in ids])


async def test_events_of_a_replay_are_not_repeated(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=1))
    async def workflow(run: Run) -> None:
        await run.emit("hello", {"n": 1})
        await run.emit("hello", {"n": 1})

        async def step() -> None:
            await run.emit("hello", {"n": 1})
            await run.emit("keyed", {"attempt": run.attempt}, key="k")
            fail_first(run)

        await run.step("s", step)
        await run.progress(0.5, "half")

    run_id = await workflow.configure(session="case").enqueue_in(connection)
    await work(app)
    told = await rows(connection, "select seq, type, data, run_id from event where session_id = 'case' order by seq")
    assert told == [
        (1, "hello", {"n": 1}, run_id),
        (2, "hello", {"n": 1}, run_id),
        (3, "hello", {"n": 1}, run_id),
        (4, "keyed", {"attempt": 1}, run_id),
        (5, "howdah.progress", {"fraction": 0.5, "note": "half"}, run_id),
        (6, "howdah.run.succeeded", {}, run_id),
    ]


async def test_an_event_of_an_earlier_attempt_is_not_even_sent_again(
    app: App, work: Work, connection: Connection, conninfo: str
) -> None:
    async with await connect(conninfo) as holder:
        await holder.execute("set idle_in_transaction_session_timeout = '5 s'")

        @app.workflow(name="w", retry=RetryStrategy(max_attempts=1))
        async def workflow(run: Run) -> None:
            await run.emit("hello")

            async def step() -> None:
                if run.attempt == 1:
                    await holder.execute("begin; select from session where id = 'case' for update")
                    raise _Once
                # Held, the session would have kept the event waiting, and the run from coming here.
                await holder.execute("rollback")

            await run.step("s", step)

        await workflow.configure(session="case").enqueue_in(connection)
        await work(app)
    assert await rows(connection, "select type from event order by seq") == ["hello", "howdah.run.succeeded"]


async def test_progress_outside_0_to_1_is_refused(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.progress(1.5)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert (await outcome(connection, run_id))[1]["message"] == "progress 1.5 is not between 0 and 1"


@pytest.mark.parametrize(
    ("output", "type_", "message"),
    [
        ("x" * (1 << 20), "TooLarge", "the output of step 's' is 1,048,578 bytes of JSON"),
        (float("nan"), "BadValue", "the output of step 's' contains NaN"),
        ("\ud800", "BadValue", "the output of step 's' cannot be written as JSON"),
        ("\0", "BadValue", "the output of step 's' contains the character NUL"),
        (object(), "BadValue", "the output of step 's' cannot be written as JSON"),
    ],
)
async def test_an_output_that_cannot_be_stored_fails_the_run_with_the_reason(
    app: App, work: Work, connection: Connection, output: Any, type_: str, message: str
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("s", lambda: output)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    state, error = await outcome(connection, run_id)
    assert (state, error["type"]) == ("failed", type_)
    assert message in error["message"]
    assert await value(connection, "select count(*) from checkpoint") == 0


async def test_a_message_that_cannot_be_stored_as_it_is_still_fails_the_run(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        raise ValueError("NUL \0 and half a pair \ud800")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    state, error = await outcome(connection, run_id)
    assert (state, error["type"], error["message"]) == ("failed", "ValueError", r"NUL \0 and half a pair \ud800")


@pytest.mark.parametrize("name", ["", "a#2", "x" * 201, "a\0"])
async def test_a_step_name_that_could_be_mistaken_is_refused(
    app: App, work: Work, connection: Connection, name: str
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step(name, lambda: 1)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert "cannot be used" in (await outcome(connection, run_id))[1]["message"]


async def test_a_return_type_that_cannot_be_resolved_fails_before_the_step_runs(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    def step() -> NowhereToBeFound:  # type: ignore[name-defined]  # noqa: F821 - what is tested
        seen.append("executed")

    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.step("s", step)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert "cannot be resolved" in (await outcome(connection, run_id))[1]["message"]
    assert seen == []


async def test_failures_are_counted_until_the_strategy_gives_up(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=2))
    async def workflow(run: Run) -> None:
        seen.append((run.attempt, run.failures))
        raise ValueError("bad")

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert seen == [(1, 0), (2, 1), (3, 2)]
    state, error = await outcome(connection, run_id)
    assert (state, error["message"]) == ("failed", "bad")
    assert "in workflow" in error["traceback"]
    assert await value(connection, "select failures from run_history") == 3


async def test_a_validation_error_inside_a_workflow_is_retried_like_any_other(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=1))
    async def workflow(run: Run) -> None:
        msgspec.json.decode(b'"x"' if run.attempt == 1 else b"1", type=int)

    run_id = await workflow.enqueue_in(connection)
    await work(app)
    assert await outcome(connection, run_id) is None


async def test_arguments_that_no_longer_fit_fail_at_once_and_name_the_argument(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=5))
    async def workflow(run: Run, pages: int) -> None: ...

    await connection.execute("""select * from enqueue_run('default', 'w', '{"pages": "many"}')""")
    await work(app)
    ((state, attempt, message),) = await rows(connection, "select state, attempt, error ->> 'message' from run_history")
    assert (state, attempt) == ("failed", 1)
    assert "$.pages" in message


async def test_an_error_that_says_so_is_not_retried(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w", retry=RetryStrategy(max_attempts=5))
    async def workflow(run: Run) -> None:
        raise NonRetryableError("never")

    await workflow.enqueue_in(connection)
    await work(app)
    assert await rows(connection, "select state, attempt from run_history") == [("failed", 1)]


async def test_a_resource_is_found_by_its_type_and_a_missing_one_is_named(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> str:
        assert run.resource(Quote).text == "q"
        run.resource(Measured)
        return ""

    run_id = await workflow.enqueue_in(connection)
    await work(app, {Quote: Quote("q", Decimal(1))})
    assert (await outcome(connection, run_id))[1]["message"] == "this worker has no Measured; it has: Quote"


async def test_an_api_that_asks_for_a_long_wait_holds_no_worker_and_is_called_again_later(
    app: App, work: Work, connection: Connection, seen: list[Any]
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> int:
        await run.step("before", lambda: seen.append("executed"))
        response = await run.call("post", "POST", f"{receiver.url}/report", json={"a": 1})
        return response.status

    with Receiver(Reply(429, headers={"Retry-After": "3600"}), Reply(201)) as receiver:
        run_id = await workflow.enqueue_in(connection)
        await work(app)
        assert await rows(
            connection, "select state, failures, attempt, run_at > now() + interval '59 minutes' from run"
        ) == [("scheduled", 0, 1, True)]
        await connection.execute("update run set run_at = now()")
        await connection.execute("select * from wake_due_runs()")
        await work(app)
        assert await outcome(connection, run_id) == 201
        keys = {request.headers["idempotency-key"] for request in receiver.received}
    assert keys == {f"howdah-{run_id}-post"}
    assert seen == ["executed"]


async def test_an_api_that_always_asks_for_a_long_wait_is_given_up_after_max_attempts(
    app: App, work: Work, connection: Connection
) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        await run.call("get", "GET", receiver.url, max_attempts=3)

    with Receiver(Reply(503, headers={"Retry-After": "3600"})) as receiver:
        run_id = await workflow.enqueue_in(connection)
        for _ in range(3):
            await work(app)
            await connection.execute("update run set run_at = now()")
            await connection.execute("select * from wake_due_runs()")
        state, error = await outcome(connection, run_id)
        assert len(receiver.received) == 3
    assert (state, error["type"]) == ("failed", "ApiCallFailed")


async def test_calls_of_one_name_in_a_loop_have_keys_of_their_own(app: App, work: Work, connection: Connection) -> None:
    @app.workflow(name="w")
    async def workflow(run: Run) -> None:
        for number in range(3):
            await run.call("post", "POST", receiver.url, json=number)

    with Receiver(Reply(200)) as receiver:
        run_id = await workflow.enqueue_in(connection)
        await work(app)
        keys = [request.headers["idempotency-key"] for request in receiver.received]
    assert keys == [f"howdah-{run_id}-post", f"howdah-{run_id}-post#2", f"howdah-{run_id}-post#3"]
