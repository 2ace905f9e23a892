"""Waiting for runs to claim: all claims that wait in a process share one LISTEN connection, opened with the first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

from howdah.app.run_waiter import TooManyWaiters
from howdah.sql.listener import listen
from howdah.sql.queue.writer import RUNS_CHANNEL

# Each asks the database once a second, hint or no hint.
MAX_WAITERS = 1_000


class ClaimWaiter:
    """Tells claims that wait when there may be something for them. A hint may be lost: they also poll.

    Attributes
    ----------
    released
        Whether this process is about to stop, and nobody shall wait any longer.
    """

    def __init__(self, conninfo: str, cell: str) -> None:
        self._conninfo = conninfo
        self._channel = f"{cell}.{RUNS_CHANNEL}"
        self._waiters: dict[asyncio.Event, frozenset[str]] = {}
        self._listening: asyncio.Task[None] | None = None
        self.released = False

    @contextlib.contextmanager
    def waiting(self, queues: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set when one of `queues` may have something, or this process is about to stop.

        Raises
        ------
        TooManyWaiters
            If this process has as many as it takes.
        """
        if len(self._waiters) >= MAX_WAITERS:
            raise TooManyWaiters(f"{MAX_WAITERS:,} claims wait in this process")
        if self._listening is None:
            self._listening = asyncio.create_task(listen(self._conninfo, [self._channel], self._heard))
        hint = asyncio.Event()
        self._waiters[hint] = frozenset(queues)
        try:
            yield hint
        finally:
            del self._waiters[hint]

    def release(self) -> None:
        """Let all waiters go."""
        self.released = True
        self._heard("", "")

    async def aclose(self) -> None:
        """Let all go and stop listening."""
        self.release()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    def _heard(self, _channel: str, queue: str) -> None:
        for hint, queues in self._waiters.items():
            if not queue or queue in queues:
                hint.set()
