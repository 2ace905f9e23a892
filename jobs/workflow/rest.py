"""How a run comes to rest: when all of its branches wait for something, it becomes a row, and holds no worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

import msgspec

from howdah.jobs.errors import DeadlineExceededError
from howdah.jobs.workflow.clock import Clock
from howdah.jobs.workflow.stop import Stop
from howdah.sql.group_commit import GroupCommit
from howdah.sql.workflow.calls import ItemStatus, RunItem

# Seconds without durable work before a run whose branches wait is put to rest: code between two durable calls, which
# nobody can see, has so long to come to the next. Cut short, it would only be repeated.
GRACE = 0.002
# Seconds between looks of a cancelled run, which waits in its worker as it tidies up.
TIDY_EVERY = 0.5


class Holder(Protocol):
    """Who runs the run.

    Attributes
    ----------
    asked
        Whether it is to stop when its code has come to where it was: then `end` stops it.
    caught_up
        Whether its code has come there: to something durable that no attempt had done before.
    """

    stop: Stop | None
    asked: bool
    caught_up: bool

    def end(self, why: Stop) -> None:
        """Cancel the run's task and say why."""


class Rest:
    """Counts what is under way in one run, and what waits.

    Parameters
    ----------
    refresh
        Reads again what may have come, before those who wait look again.
    """

    def __init__(
        self,
        run_id: int,
        attempt: int,
        writer: GroupCommit[RunItem, ItemStatus],
        holder: Holder,
        refresh: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._run_id = run_id
        self._attempt = attempt
        self._writer = writer
        self._holder = holder
        self._refresh = refresh
        self._clock = clock
        self._under_way = 0
        self._waits: dict[asyncio.Future[None], tuple[dict[str, Any], datetime | None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._decision: asyncio.Task[None] | None = None

    async def begin(self, *, repeated: bool = False) -> None:
        """Before durable work: until its `done`, the run does not rest. Not called, if this raises.

        Parameters
        ----------
        repeated
            Whether each attempt does it again; it is not where a run stops that was asked to.
        """
        if self._decision is not None or self._holder.stop is not None:
            await self._may_go_on()
        if not repeated:
            if self._holder.asked and self._holder.stop is None:
                # Nothing new: here it stops, when its other branches have come to such a place as well.
                await self._until_woken({"sleep": "stop"})
            self._holder.caught_up = True
        self._under_way += 1

    def done(self) -> None:
        """After it."""
        self._under_way -= 1
        self._look()

    async def wait(self, what: dict[str, Any], until: datetime | None = None) -> None:
        """Return when something has come: look whether it is what you wait for, and wait again where it is not.

        Most often it does not return: the run rests, and its next attempt comes by here again.

        Parameters
        ----------
        what
            As `waits_over` in SQL describes it.
        until
            When to be woken at the latest.

        Raises
        ------
        DeadlineExceededError
            If the run's deadline has passed: it tidies up, and must come to an end.
        """
        await self._may_go_on()
        if self._holder.stop is Stop.EXPIRED:
            raise DeadlineExceededError(f"run {self._run_id} is past its deadline, and waits for nothing any more")
        if self.tidying_up:
            # It tidies up, and may not rest any more: that would end it.
            left = TIDY_EVERY if until is None else (until - self._clock.now()).total_seconds()
            await asyncio.sleep(max(0.0, min(TIDY_EVERY, left)))
            await self._refresh()
            return
        await self._until_woken(what, until)

    async def _until_woken(self, what: dict[str, Any], until: datetime | None = None) -> None:
        came: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits[came] = (what, until)
        self._look()
        try:
            await came
        finally:
            self._waits.pop(came, None)

    @property
    def tidying_up(self) -> bool:
        """Whether the run was cancelled, and only does what its code does about it."""
        return self._holder.stop is Stop.CANCELLED

    def lose(self) -> None:
        """Another attempt has the run: nothing more may begin here, neither what its code does about the refusal."""
        self._holder.end(Stop.LOST)

    def close(self) -> None:
        """Forget it all: the run has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._waits = {}

    async def _may_go_on(self) -> None:
        if self._decision is not None:
            # The run may be another's in a moment: whether it is, is just being written.
            await asyncio.shield(self._decision)
        if self._holder.stop is not None and not self._holder.stop.may_tidy_up:
            raise asyncio.CancelledError(f"run {self._run_id} does not go on here: {self._holder.stop.value}")

    def _look(self) -> None:
        if self._waits and not self._under_way and self._timer is None and self._decision is None:
            self._timer = asyncio.get_running_loop().call_later(GRACE, self._after_grace)

    def _after_grace(self) -> None:
        self._timer = None
        if self._waits and not self._under_way and self._holder.stop is None:
            self._holder.caught_up = True
            if self._holder.asked:
                self._holder.end(Stop.CANCELLED)
            else:
                self._decision = asyncio.create_task(self._decide())

    async def _decide(self) -> None:
        waits = list(self._waits.values())
        body = msgspec.json.encode([what for what, _ in waits]).decode()
        untils = [until for _, until in waits if until is not None]
        listens = any("events" in what for what, _ in waits)
        item = RunItem(
            self._run_id,
            self._attempt,
            "outcome",
            "wait",
            body,
            key="session" if listens else None,
            at=min(untils, default=None),
        )
        try:
            status = await self._writer.submit(item)
            if status == "ready":
                await self._refresh()
        except Exception as error:
            self._decision = None
            for came in self._waits:
                if not came.done():
                    came.set_exception(error)
            return
        if status == "ready":
            self._decision = None
            for came in self._waits:
                if not came.done():
                    came.set_result(None)
        elif status == "cancelled":
            self._decision = None
            self._holder.end(Stop.CANCELLED)
        else:
            # Written; or stale: then another attempt has the run, perhaps woken from this very rest.
            self._holder.end(Stop.RESTING)
