"""LISTEN on a connection of its own, which comes back by itself when it is cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import psycopg
import structlog

from howdah.sql.pool import is_pooled

log = structlog.get_logger(__name__)

# Between attempts to reconnect; jittered, so that a fleet does not come back in one instant.
RECONNECT_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)


async def listen(
    conninfo: str, channels: Sequence[str], heard: Callable[[str, str], None], *, ready: asyncio.Event | None = None
) -> None:
    """Call ``heard(channel, payload)`` for each notification on `channels`, until cancelled.

    After every (re)connection `heard` is called once for each channel with the payload '': what was said while nobody
    listened is lost, so look at everything. `ready` is set after the first.

    Through a pooler nothing is ever heard: notifications would reach whoever has the session then. Callers poll anyway.
    """
    if is_pooled(conninfo):
        return
    failures = 0
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
                for channel in channels:
                    await connection.execute(psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(channel)))
                failures = 0
                for channel in channels:
                    heard(channel, "")
                if ready is not None:
                    ready.set()
                async for notification in connection.notifies():
                    heard(notification.channel, notification.payload)
        except psycopg.OperationalError as error:
            pause = RECONNECT_PAUSES[min(failures, len(RECONNECT_PAUSES) - 1)] * (0.5 + random.random())  # noqa: S311
            log.warning("listen_reconnects", channels=list(channels), error=str(error).strip(), pause_s=round(pause, 2))
            failures += 1
            await asyncio.sleep(pause)
