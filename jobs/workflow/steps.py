"""How a step is run once: recalled from history, or called, tried again as it asks, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from procrastinate.retry import RetryValue, get_retry_strategy

from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.history import History, Inside, passed, place
from howdah.jobs.workflow.kept_failures import KeptFailures, rebuild
from howdah.jobs.workflow.rest import Rest
from howdah.jobs.workflow.step_function import call, output_decoder, retry_at
from howdah.sql.errors import StaleAttempt, StepRepeated
from howdah.sql.json_values import encode
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.workflow.calls import ItemStatus, RunItem

# Shorter waits are spent in the worker: to rest and be claimed again costs more.
REST_FROM = timedelta(seconds=1)
MAX_FAILURE = 1000  # characters of a failure that is kept while its step waits


class _Failure(msgspec.Struct):
    """What is kept of a step's failure while the run rests until the next try."""

    until: datetime
    error: str


class Steps:
    """The steps of one attempt of a run."""

    def __init__(self, claimed: ClaimedRun, history: History, rest: Rest, engine: Engine) -> None:
        self._claimed = claimed
        self._history = history
        self._rest = rest
        self._engine = engine
        self._failures = KeptFailures()

    async def run(
        self,
        step: str,
        after: str | None,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry: RetryValue = False,
        timeout: timedelta | None = None,
    ) -> Any:
        """The output of `step`: as it was kept, or of `function` called now."""
        decoder = output_decoder(function)
        known = await self.recall(step, after)
        if known is not None:
            return decoder.decode(known)
        self.raise_kept(step)
        strategy = get_retry_strategy(retry)
        failures = 0
        while strategy is not None and (failed := self._history.peek(f"{step}#failed-{failures + 1}")) is not None:
            failures += 1
            await self.pause(step, msgspec.json.decode(failed, type=_Failure).until)
        while True:
            await self._rest.begin()
            try:
                started_at = self._engine.clock.now()
                try:
                    with Inside(step):
                        output = await call(function, args, kwargs, self._engine.threads, timeout)
                except Exception as error:
                    again = None
                    if strategy is not None:
                        again = retry_at(strategy, error, self._claimed, step, failures, self._engine.clock)
                    if again is None:
                        self.give_up(step, error)
                        raise
                    failures += 1
                    if again - self._engine.clock.now() >= REST_FROM:
                        failure = _Failure(again, f"{type(error).__name__}: {error}"[:MAX_FAILURE])
                        body = encode(failure, f"the failure of step {step!r}")
                        await self.write(f"{step}#failed-{failures}", None, body, started_at)
                else:
                    await self.write(step, after, encode(output, f"the output of step {step!r}"), started_at)
                    return output
            finally:
                self._rest.done()
            await self.pause(step, again)

    async def map(
        self,
        name: str,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        limit: int,
        retry: RetryValue,
        timeout: timedelta | None,
    ) -> list[Any]:
        """The outputs of `function` for each item, a step each, `limit` at a time."""
        if limit < 1:
            raise ValueError(f"limit {limit} of map {name!r} lets nothing run: give at least 1")
        base, after = self._history.number(name), place()
        todo = list(items)
        outputs: list[Any] = [None] * len(todo)
        numbers = iter(range(len(todo)))

        async def work_off() -> None:
            for number in numbers:
                step = f"{base}[{number}]"
                outputs[number] = await self.run(step, after, function, (todo[number],), {}, retry, timeout)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(limit, len(todo))):
                    group.create_task(work_off())
        except BaseExceptionGroup as failed:
            self._failures.passed_on(failed)
            raise failed.exceptions[0] from None
        passed(base)
        return outputs

    async def recall(self, step: str, after: str | None) -> str | None:
        """The output of `step`, if it has finished. If not, what its place is owed to is kept first.

        Errors are those of `History.recall`.
        """
        known = self._history.recall(step, after)
        if known is None:
            for failed, body in self._failures.take():
                await self.keep(f"{failed}#caught", None, body)
        return known

    def raise_kept(self, step: str) -> None:
        """Raise again what an earlier attempt's code went on from, where this step had failed."""
        failed = self._history.peek(f"{step}#caught")
        if failed is not None:
            raise rebuild(step, failed)

    async def moment(self, step: str, after: str | None, ahead: timedelta = timedelta(0)) -> datetime:
        """The time when the first attempt came to this step, and `ahead` from there: kept as its output."""
        known = await self.recall(step, after)
        if known is not None:
            return self._history.decode(step, known, datetime)
        moment = self._engine.clock.now() + ahead
        await self.keep(step, after, encode(moment, "the time"))
        return moment

    async def pause(self, step: str, until: datetime) -> None:
        """Wait until then: at rest, unless it is soon."""
        while (left := until - self._engine.clock.now()) > timedelta(0):
            if left >= REST_FROM:
                await self._rest.wait({"sleep": step, "until": until.isoformat()}, until)
                continue
            await self._rest.begin()
            try:
                await asyncio.sleep(left.total_seconds())
            finally:
                self._rest.done()

    async def keep(self, step: str, after: str | None, body: str) -> None:
        """Write a step's output, which is JSON text; the run does not rest meanwhile."""
        await self._rest.begin()
        try:
            await self.write(step, after, body)
        finally:
            self._rest.done()

    async def write(self, step: str, after: str | None, body: str, started_at: datetime | None = None) -> None:
        """As `keep`, within work that is under way."""
        self.written(await self._engine.writer.submit(self.item(step, after, body, started_at)), step)

    def item(self, step: str, after: str | None, body: str, started_at: datetime | None = None) -> RunItem:
        """A checkpoint to write now; `written` is to hear what became of it."""
        run = self._claimed
        if self._engine.witness is not None:
            self._engine.witness.before(run.id, step)
        at = started_at or self._engine.clock.now()
        return RunItem(run.id, run.attempt, "checkpoint", step, body, key=after, at=at)

    def written(self, status: ItemStatus, step: str) -> None:
        """What became of a step's checkpoint; raises as `refuse_unless_ok`."""
        self.refuse_unless_ok(status, step)
        if self._engine.witness is not None:
            self._engine.witness.after(self._claimed.id, step)

    def failed(self, step: str, error: Exception) -> None:
        """The step's function has raised this, and is not tried again."""
        if self._engine.witness is not None:
            self._engine.witness.failed(self._claimed.id, step, error)

    def give_up(self, step: str, error: Exception) -> None:
        """As `failed`; where the code goes on from it, later attempts see the same error."""
        self.failed(step, error)
        self._failures.failed(step, error)

    def refuse_unless_ok(self, status: ItemStatus, what: str) -> None:
        """Raise StaleAttempt or StepRepeated where the engine has said so."""
        run = self._claimed
        if status == "stale":
            self._rest.lose()
            raise StaleAttempt(
                f"attempt {run.attempt} of run {run.id} is over: {what!r} was not written, another one has the run"
            )
        if status == "repeated":
            raise StepRepeated(
                f"step {what!r} of run {run.id} ran again although its output was on disk; the first output was kept"
            )
