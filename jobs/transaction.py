"""A step whose own SQL commits together with its checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import psycopg

from howdah.sql.pool import Connection, Pool
from howdah.sql.workflow.calls import ItemStatus, RunItem, flush, read_checkpoint

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

# The run's row is held by others for milliseconds only: its worker's heartbeat, somebody who cancels it.
BUSY_PAUSES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# Writes the checkpoint with this output on the connection, in its transaction.
Keep = Callable[[Connection, Any], Awaitable[None]]


class _NotWrittenError(Exception):
    """Rolls the author's own SQL back: the checkpoint was refused."""

    def __init__(self, status: ItemStatus) -> None:
        super().__init__(status)
        self.status = status


async def once(
    pool: Pool,
    run_id: int,
    attempt: int,
    step: str,
    item: Callable[[Any], RunItem],
    write: Callable[[Keep], Awaitable[Any]],
) -> tuple[str, ItemStatus]:
    """Run `write`, which runs the author's function and then keeps its output; the output as JSON, and its status.

    Where the connection breaks while it commits, nobody knows whether it did: then the checkpoint tells.
    """
    written: list[RunItem] = []

    async def keep(connection: Connection, output: Any) -> None:
        new = item(output)
        for pause in (*BUSY_PAUSES, None):
            (status,) = await flush(connection, [new], notify=False)
            if status != "busy" or pause is None:
                break
            await asyncio.sleep(pause)
        if status != "ok":
            raise _NotWrittenError(status)
        written.append(new)

    try:
        await write(keep)
    except _NotWrittenError as refused:
        return "null", refused.status
    except psycopg.OperationalError:
        if not written:
            raise
        async with pool.connection() as connection:
            found = await read_checkpoint(connection, run_id, step)
        if found is None or found.attempt != attempt:
            raise
    return written[0].body or "null", "ok"


async def with_psycopg(
    pool: Pool, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], keep: Keep
) -> None:
    """Call `function` with a psycopg connection in a transaction."""
    async with pool.connection() as connection, connection.transaction():
        await keep(connection, await function(connection, *args, **kwargs))


async def with_sqlalchemy(
    engine: AsyncEngine,
    search_path: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    keep: Keep,
) -> None:
    """Call `function` with a SQLAlchemy connection in a transaction.

    Raises
    ------
    TypeError
        If the engine's driver is not psycopg.
    """
    async with engine.begin() as connection:
        output = await function(connection, *args, **kwargs)
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        if not isinstance(driver, psycopg.AsyncConnection):
            raise TypeError(f"{engine.url.drivername} has another driver than psycopg: use postgresql+psycopg://")
        await driver.execute("select set_config('search_path', %s, true)", [search_path])
        await keep(driver, output)
