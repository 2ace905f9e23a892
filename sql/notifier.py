"""NOTIFY after commit, apart from it: inside a writing transaction it takes a lock on the whole cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import psycopg
import structlog

from howdah.sql.pool import Pool
from howdah.sql.schema import DEFAULT_CELL

log = structlog.get_logger(__name__)

# The first hint goes at once; then at most one round in this time, however many writers there are.
INTERVAL = 0.002
# One statement carries this many payloads at most; what is more says '' once: look at everything.
MAX_PAYLOADS = 500


class Notifier:
    """Sends hints that something was committed. A hint may be lost: listeners also poll."""

    def __init__(self, pool: Pool, cell: str = DEFAULT_CELL) -> None:
        self._pool = pool
        self._cell = cell
        self._pending: dict[str, set[str]] = {}
        self._sender: asyncio.Task[None] | None = None

    def hint(self, channel: str, payloads: Iterable[str]) -> None:
        """Send `payloads` on the cell's `channel` (runs, events, cancels) soon. Never waits, never raises."""
        self._pending.setdefault(f"{self._cell}.{channel}", set()).update(payloads)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())

    async def aclose(self) -> None:
        """Send what is pending, then stop."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        try:
            while self._pending:
                pending, self._pending = self._pending, {}
                channels: list[str] = []
                payloads: list[str] = []
                for channel, wanted in pending.items():
                    sent = wanted if len(wanted) <= MAX_PAYLOADS else {""}
                    channels += [channel] * len(sent)
                    payloads += sent
                try:
                    await notify(self._pool, channels, payloads)
                except psycopg.Error as error:
                    log.warning("hints_lost", channels=sorted(pending), error=str(error))
                await asyncio.sleep(INTERVAL)
        finally:
            self._sender = None


async def notify(pool: Pool, channels: Sequence[str], payloads: Sequence[str]) -> None:
    """Send each payload on its channel, in this order, in a transaction of its own."""
    async with pool.connection() as connection:
        await connection.execute(
            # A hint need not reach the disk, and is sooner without.
            "select pg_notify(n.c, n.p) from set_config('synchronous_commit', 'off', true)"
            " cross join unnest(%s::text[], %s::text[]) with ordinality as n(c, p, o) order by n.o",
            [channels, payloads],
        )
