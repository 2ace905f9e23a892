"""One run, from its arguments to its outcome: the only place where an author's code is called."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import procrastinate
import psycopg
import structlog
from procrastinate import jobs, middleware
from procrastinate.job_context import AbortReason, JobContext
from procrastinate.retry import BaseRetryStrategy, RetryDecision
from procrastinate.tasks import Task

from howdah.jobs.api.errors import RetryLater
from howdah.jobs.app import App
from howdah.jobs.errors import DeadlineExceededError, NonRetryableError
from howdah.jobs.retry import RetryStrategy, read_override
from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.past import Past
from howdah.jobs.workflow.run import Run
from howdah.jobs.workflow.stop import Stop
from howdah.sql.errors import BadValue, HowdahError, StaleAttempt
from howdah.sql.json_values import encode
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.workflow.calls import RunItem

T = TypeVar("T")

log = structlog.get_logger(__name__)

# A traceback's end tells what happened; a deep recursion's beginning does not.
MAX_TRACEBACK = 16_000
MAX_MESSAGE = 4_000
# Seconds for a run's code to come to where it was, before it is told that it shall stop.
CATCH_UP = 1.0
# The greatest integer of the column; its own least one is no priority.
MAX_PRIORITY = 2**31 - 1

_QUEUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Execution:
    """A claimed run in this worker's hands. `stop` may be set before its task is cancelled, to say why.

    `asked` and `caught_up` are as `Holder` in `howdah.jobs.workflow.rest` tells.
    """

    __slots__ = ("_app", "_bound", "_engine", "_past", "_run", "asked", "caught_up", "claimed", "stop", "task")

    def __init__(self, app: App, claimed: ClaimedRun, past: Past, engine: Engine) -> None:
        self.claimed = claimed
        self.stop: Stop | None = None
        self.asked = False
        # A first attempt has nowhere to come to, and what is no workflow has no such place.
        self.caught_up = claimed.attempt == 1 or claimed.task not in app.workflows
        self.task: asyncio.Task[None] | None = None
        self._app = app
        self._past = past
        self._engine = engine
        self._run: Run | None = None
        self._bound: asyncio.TimerHandle | None = None

    def end(self, why: Stop) -> None:
        """Ask it to stop: where its code is; one that repeats what earlier attempts did comes to where they were first.

        Past its deadline it has failed, whoever asks.
        """
        if not self.caught_up and why.may_tidy_up:
            self.asked = True
            if self._run is not None and self._bound is None:
                self._bound = asyncio.get_running_loop().call_later(CATCH_UP, self._catch_up)
        elif self.stop is None:
            self.stop = Stop.EXPIRED if why is Stop.CANCELLED and self._left() <= 0 else why
            if self.task is not None:
                self.task.cancel()

    def close(self) -> None:
        """Its code has ended: nothing more comes of it."""
        if self._bound is not None:
            self._bound.cancel()
        if self._run is not None:
            self._run.close()
            # The run knows who holds it: a circle, which only the collector would free, at a fifth of a worker's time.
            self._run = None

    async def outcome(self) -> list[RunItem]:
        """Run it; what is to be written about it, in order. Empty when this attempt no longer counts."""
        claimed = self.claimed
        if self.stop is not None:
            # Asked to stop while it waited for a slot.
            return self._stopped()
        retry: BaseRetryStrategy | None = None
        try:
            override = None if claimed.retry is None else read_override(claimed.retry)
            if (workflow := self._app.workflows.get(claimed.task)) is not None:
                # Before the retry strategy counts: arguments that do not fit will not fit the next time.
                arguments = workflow.signature.decode(claimed.args)
                retry = override or workflow.retry_strategy
                self._run = Run(claimed, self._past, self._engine, self, f"{self._app.cell},public")
                if self.asked or (not self.caught_up and (self._past.asked or self._left() <= 0)):
                    self.end(Stop.CANCELLED)
                running = workflow.function(self._run, **arguments)
                output = await (running if claimed.deadline is None else self._in_time(running))
                self._run.end()
                body = encode(output, f"the output of run {claimed.id}")
            else:
                task = self._app.tasks.get(claimed.task)
                if task is None:
                    raise LookupError(  # noqa: TRY301 - ends this run as any other error of it
                        f"this worker has no task {claimed.task!r}: deploy a version that has it, requeue"
                    )
                retry = override or task.retry_strategy
                running = self._run_task(task)
                output = await (running if claimed.deadline is None else self._in_time(running))
                body = _output_if_json(output)
        except asyncio.CancelledError:
            return self._stopped()
        except StaleAttempt as error:
            log.warning("attempt_stale", run=claimed.id, attempt=claimed.attempt, error=str(error))
            return []
        except RetryLater as error:
            return [self._item("reschedule", _error_body(error), at=self._engine.clock.now() + error.after)]
        except BaseException as error:  # Whatever an author's code raises ends this run only.
            try:
                if isinstance(error, DeadlineExceededError) and self.stop is Stop.EXPIRED:
                    return self._stopped()
                return await self._failed(error, retry)
            except asyncio.CancelledError:
                return self._stopped()
        return self._final("succeeded", body)

    async def _in_time(self, running: Awaitable[T]) -> T:
        timer = asyncio.get_running_loop().call_later(self._left(), self.end, Stop.EXPIRED)
        try:
            return await running
        finally:
            timer.cancel()

    def _catch_up(self) -> None:
        self.caught_up = True
        self.end(Stop.CANCELLED)

    def _left(self) -> float:
        """Seconds until the deadline."""
        deadline = self.claimed.deadline
        return math.inf if deadline is None else (deadline - self._engine.clock.now()).total_seconds()

    async def _run_task(self, task: Task[Any, Any, Any]) -> Any:
        arguments = msgspec.json.decode(self.claimed.args)
        positional = [self._context(arguments)] if task.pass_context else []
        call: Callable[[], Any] = functools.partial(task, *positional, **arguments)
        if task.task_middleware:
            # A middleware asks the worker for nothing that a stock one has and ours lacks.
            call = middleware.compose(task.task_middleware, call, self._context(arguments), None)
        if _is_async(task.func):
            return await call()
        output = await asyncio.get_running_loop().run_in_executor(self._engine.threads, call)
        return await output if inspect.isawaitable(output) else output

    def _context(self, arguments: dict[str, Any]) -> JobContext:
        return JobContext(
            app=self._app,
            job=self._job(arguments),
            start_timestamp=time.time(),
            abort_reason=lambda: None if self.stop is None else _ABORT_REASONS[self.stop],
        )

    def _job(self, arguments: dict[str, Any]) -> jobs.Job:
        claimed = self.claimed
        return jobs.Job(
            id=claimed.id,
            queue=claimed.queue,
            lock=None,
            queueing_lock=None,
            task_name=claimed.task,
            task_kwargs=arguments,
            attempts=claimed.failures,
            status="doing",
        )

    def _stopped(self) -> list[RunItem]:
        if self.stop is Stop.CANCELLED:
            return self._final(
                "cancelled", encode({"type": "Cancelled", "message": "cancelled while running"}, "error")
            )
        if self.stop is Stop.EXPIRED:
            late = f"the deadline, {self.claimed.deadline:%c %Z}, has passed"
            return self._final("failed", encode({"type": "DeadlineExceeded", "message": late}, "error"))
        if self.stop is Stop.SHUTDOWN:
            return [self._item("release")]
        if self.stop in (Stop.LOST, Stop.RESTING):
            return []
        # The author's own code cancelled its task: that is a failure like any other.
        return self._give_up(asyncio.CancelledError("the task cancelled itself"))

    async def _failed(self, error: BaseException, retry: BaseRetryStrategy | None) -> list[RunItem]:
        if isinstance(error, procrastinate.exceptions.JobAborted) and self.stop is not None:
            return self._stopped()
        if retry is not None and not isinstance(error, NonRetryableError):
            job = await self._job_to_retry(retry)
            try:
                again = retry.get_retry_exception(exception=error, job=job)
                if again is not None:
                    return [self._retry(error, again.retry_decision, job)]
            except Exception as refused:  # A strategy is an author's code as well.
                return self._give_up(refused)
        return self._give_up(error)

    async def _job_to_retry(self, retry: BaseRetryStrategy) -> jobs.Job:
        """The job that a strategy sees. What a claim does not bring is read for an author's own one only."""
        job = self._job(msgspec.json.decode(self.claimed.args))
        if type(retry) in (RetryStrategy, procrastinate.RetryStrategy):
            return job
        query = "select priority, case when order_no is not null then session_id end from run where id = %s"
        try:
            async with self._engine.pool.connection() as connection:
                row = await (await connection.execute(query, [job.id])).fetchone()
        except psycopg.Error as error:
            log.warning("retry_decided_without_priority", run=job.id, error=str(error).strip())
            return job
        return job if row is None else job.evolve(priority=row[0], lock=row[1])

    def _retry(self, error: BaseException, decision: RetryDecision, job: jobs.Job) -> RunItem:
        change: dict[str, Any] = {}
        if decision.priority is not None:
            if not -MAX_PRIORITY <= decision.priority <= MAX_PRIORITY:
                raise BadValue(
                    f"the retry strategy of task {job.task_name!r} chose the priority {decision.priority}:"
                    f" use one from -{MAX_PRIORITY} to {MAX_PRIORITY}"
                )
            change["priority"] = decision.priority
        if decision.queue is not None:
            if _QUEUE.fullmatch(decision.queue) is None:
                raise BadValue(
                    f"the retry strategy of task {job.task_name!r} chose the queue {decision.queue!r}: use up to 128"
                    " letters, digits and . _ : - beginning with a letter or digit"
                )
            change["queue"] = decision.queue
        if decision.lock is not None and decision.lock != job.lock:
            log.warning("retry_keeps_its_lock", run=job.id, task=job.task_name, lock=job.lock, asked=decision.lock)
        clock = self._engine.clock
        at = clock.now() if decision.retry_at is None else clock.by_it(decision.retry_at)
        item = self._item("retry", _error_body(error), at=at)
        item.key = encode(change, "the retry decision") if change else None
        return item

    def _give_up(self, error: BaseException) -> list[RunItem]:
        log.warning(
            "run_failed", run=self.claimed.id, task=self.claimed.task, error=f"{type(error).__name__}: {error}"[:500]
        )
        return self._final("failed", _error_body(error))

    def _final(self, state: str, body: str) -> list[RunItem]:
        items = [self._item(state, body)]
        if self._run is not None and self._run.has_events:
            # Those who watch the session's stream should see how it ended.
            key = f"{self.claimed.id}/outcome/{self.claimed.attempt}"
            data = body if state != "succeeded" else "{}"
            items.insert(
                0,
                RunItem(self.claimed.id, self.claimed.attempt, "event", f"howdah.run.{state}", data, key=key),
            )
        return items

    def _item(self, outcome: str, body: str = "null", at: datetime | None = None) -> RunItem:
        return RunItem(self.claimed.id, self.claimed.attempt, "outcome", outcome, body, at=at)


_ABORT_REASONS = {
    Stop.CANCELLED: AbortReason.USER_REQUEST,
    Stop.EXPIRED: AbortReason.USER_REQUEST,
    Stop.SHUTDOWN: AbortReason.SHUTDOWN,
    Stop.LOST: AbortReason.SHUTDOWN,
    Stop.RESTING: AbortReason.SHUTDOWN,
}


@functools.cache
def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function)


def _output_if_json(output: Any) -> str:
    """procrastinate's tasks may return anything; what is no JSON was never kept."""
    if output is None:
        return "null"
    try:
        return encode(output, "the output")
    except HowdahError:
        return "null"


def _error_body(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    return encode(
        {
            "type": type(error).__qualname__,
            "message": _storable(str(error))[:MAX_MESSAGE],
            "traceback": _storable(text)[-MAX_TRACEBACK:],
        },
        "the error",
    )


def _storable(text: str) -> str:
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()
