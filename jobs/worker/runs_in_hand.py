"""The runs that a worker has in hand: from its claim until what became of them is on disk."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import structlog

from howdah.jobs.app import App
from howdah.jobs.worker.execution import Execution
from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.past import Past
from howdah.jobs.workflow.stop import Stop
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.queue.writer import RUNS_CHANNEL
from howdah.sql.stream.writer import EVENTS_CHANNEL
from howdah.sql.workflow.calls import ItemStatus

log = structlog.get_logger(__name__)

NO_PAST = Past()

MAX_AHEAD = 500  # runs claimed beyond the free slots, while they are brief
BRIEF = 0.05  # seconds: runs shorter than this on average are claimed ahead, while the last ones run
DURATIONS = 100  # runs over which the average goes
AT_ONCE = 50  # runs started in one turn of the loop, so that what else is ready need not wait for hundreds
LAST_WORDS = 2.0  # seconds for an author's `finally`; one that never ends must not keep the worker


class RunsInHand:
    """Starts runs as slots come free, and hands what became of them to the group-commit writer.

    Attributes
    ----------
    freed
        Set when a run has ended, and again when its outcome is on disk.
    on_written
        Called as an outcome is on disk.
    finished
        Outcomes on disk.
    """

    def __init__(self, app: App, engine: Engine, concurrency: int) -> None:
        self._app = app
        self._engine = engine
        self._concurrency = concurrency
        self._running: dict[int, Execution] = {}  # claimed and not ended
        self._waiting: deque[Execution] = deque()  # those of them that wait for a slot
        self._duration = BRIEF  # of a run, in seconds, averaged over the last ones
        self._unwritten: set[tuple[int, int]] = set()
        # Each run starts from this one: a run that ends and starts the next would hand its own place in history on.
        self._context = contextvars.copy_context()
        self.freed = asyncio.Event()
        self.on_written: Callable[[], None] = lambda: None
        self.finished = 0

    @property
    def busy(self) -> bool:
        """Whether a run has not ended."""
        return bool(self._running)

    @property
    def idle(self) -> bool:
        """Whether all have ended, and are on disk."""
        return not self._running and not self._unwritten

    @property
    def attempts(self) -> set[tuple[int, int]]:
        """(run, attempt) of all that has not ended, or is not yet on disk."""
        return {(run_id, execution.claimed.attempt) for run_id, execution in self._running.items()} | self._unwritten

    def room(self) -> int:
        """How many more runs to claim; none while more than twice as many ended runs as slots wait to be written: one
        such batch is on its way to the disk, the other gathers.
        """
        if len(self._unwritten) > 2 * self._concurrency:
            return 0
        ahead = min(MAX_AHEAD, self._concurrency) if self._duration < BRIEF else 0
        return self._concurrency + ahead - len(self._running)

    def take(self, claimed: Sequence[ClaimedRun], pasts: Mapping[int, Past]) -> None:
        """Start these runs, each with its past where it has one, as slots come free."""
        for run in claimed:
            execution = Execution(self._app, run, pasts.get(run.id, NO_PAST), self._engine)
            self._running[run.id] = execution
            self._waiting.append(execution)
        self._start_waiting()

    def cancel(self, runs: Iterable[int]) -> None:
        """Ask those of these runs that are here to stop."""
        for run_id in runs:
            if (execution := self._running.get(run_id)) is not None:
                execution.end(Stop.CANCELLED)

    async def let_finish(self, seconds: float) -> None:
        """Forget what has not started: leaving gives it back. Let the rest end, and stop it after `seconds`."""
        self._drop_waiting()
        tasks = [execution.task for execution in self._running.values() if execution.task is not None]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        await self._abandon(Stop.SHUTDOWN)

    async def lose(self) -> None:
        """Stop all: these runs are others' by now."""
        self._drop_waiting()
        await self._abandon(Stop.LOST)

    def strand(self) -> None:
        """As `lose`, without waiting for what the runs do as they are told: from here on they write nothing."""
        self._drop_waiting()
        for execution in self._running.values():
            execution.stop = Stop.LOST
            if execution.task is not None:
                execution.task.cancel()

    def _drop_waiting(self) -> None:
        for execution in self._waiting:
            self._running.pop(execution.claimed.id, None)
        self._waiting.clear()

    async def _abandon(self, why: Stop) -> None:
        tasks = []
        for execution in list(self._running.values()):
            execution.stop = why
            if execution.task is not None:
                execution.task.cancel()
                tasks.append(execution.task)
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS)

    def _start_waiting(self) -> None:
        for _ in range(AT_ONCE):
            if not self._waiting or len(self._running) - len(self._waiting) >= self._concurrency:
                return
            execution = self._waiting.popleft()
            execution.task = asyncio.create_task(self._execute(execution), context=self._context.copy())
        asyncio.get_running_loop().call_soon(self._start_waiting)

    async def _execute(self, execution: Execution) -> None:
        claimed = execution.claimed
        clock = asyncio.get_running_loop().time
        started_at = clock()
        try:
            items = await execution.outcome()
        finally:
            execution.close()
            self._duration += (clock() - started_at - self._duration) / DURATIONS
            if self._running.get(claimed.id) is execution:
                del self._running[claimed.id]
            if self._waiting:
                self._start_waiting()
            # The next claim need not wait until this outcome is written: the two go side by side.
            self.freed.set()
        # At rest or lost, it is not this attempt's any more, whatever its code did as it was told.
        if not items or execution.stop in (Stop.RESTING, Stop.LOST):
            return
        self._unwritten.add((claimed.id, claimed.attempt))
        *events, outcome = items
        for item in events:
            self._engine.writer.add(item)
        self._engine.writer.post(outcome, partial(self._written, execution, outcome.name))
        if events:
            self._engine.notifier.hint(
                EVENTS_CHANNEL, [f"{claimed.tenant_id}/{claimed.session_id or f'run:{claimed.id}'}"]
            )

    def _written(self, execution: Execution, outcome: str, status: ItemStatus | BaseException) -> None:
        self._unwritten.discard((execution.claimed.id, execution.claimed.attempt))
        self.freed.set()
        if isinstance(status, asyncio.CancelledError):
            return
        if isinstance(status, BaseException):
            log.error("outcome_lost", run=execution.claimed.id, outcome=outcome, error=str(status))
        elif status == "stale":
            log.warning("outcome_stale", run=execution.claimed.id, attempt=execution.claimed.attempt, outcome=outcome)
        else:
            self.finished += 1
            self.on_written()
            if outcome in ("retry", "release"):
                self._engine.notifier.hint(RUNS_CHANNEL, [execution.claimed.queue])
