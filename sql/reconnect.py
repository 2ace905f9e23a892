"""What may be repeated is tried again while the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import structlog
from psycopg_pool import PoolClosed

T = TypeVar("T")

log = structlog.get_logger(__name__)

# Postgres restarts within seconds; beyond a minute, callers should know.
RECONNECT_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0, 10.0, 10.0, 10.0, 13.0)


async def through_reconnects(action: Callable[[], Awaitable[T]], what: str) -> T:
    """The answer of `action`, called again while it fails for reasons that pass.

    It must be safe to repeat after a lost connection, when nobody knows whether its commit arrived.
    """
    for pause in RECONNECT_PAUSES:
        try:
            return await action()
        except psycopg.OperationalError as error:
            if not may_pass(error):
                raise
            log.warning("database_away", what=what, error=str(error).strip(), pause_s=pause)
            await asyncio.sleep(pause)
    return await action()


def may_pass(error: Exception) -> bool:
    """Whether the same could be done once the database is back, or has room again."""
    if not isinstance(error, psycopg.OperationalError) or isinstance(error, PoolClosed):
        return False
    state = error.sqlstate
    # None: the connection broke; 40: deadlock; 53: too many connections, disk full; 57P: shut down or starting.
    return state is None or state.startswith(("08", "40", "53", "57P"))
