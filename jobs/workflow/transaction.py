"""A step whose own SQL commits together with its checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.history import Inside
from howdah.jobs.workflow.rest import Rest
from howdah.jobs.workflow.steps import Steps
from howdah.sql.json_values import encode
from howdah.sql.pool import Connection, Pool
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.reconnect import RECONNECT_PAUSES, through_reconnects
from howdah.sql.workflow.calls import Checkpoint, ItemStatus, RunItem, flush, read_checkpoint

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

log = structlog.get_logger(__name__)

# The run's row is held by others for milliseconds only: its worker's heartbeat, somebody who cancels it.
BUSY_PAUSES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# From the flush until the commit the run's row is locked: a worker that freezes there must not keep it from rescue.
FROZEN = "set local idle_in_transaction_session_timeout = '5s'"

# Writes the checkpoint with this output on the connection, in its transaction.
Keep = Callable[[Connection, Any], Awaitable[None]]


class _LostError(Exception):
    """The transaction's connection broke; its cause is what was raised."""


class _NotWrittenError(Exception):
    """Rolls the author's own SQL back: the checkpoint was refused."""

    def __init__(self, status: ItemStatus) -> None:
        super().__init__(status)
        self.status = status


async def run_transaction(
    engine: Engine,
    claimed: ClaimedRun,
    rest: Rest,
    steps: Steps,
    step: str,
    after: str | None,
    write: Callable[[Keep], Awaitable[None]],
) -> str:
    """The output of `step` as JSON text: as it was kept, or of `write`, which is called as `once` says."""
    known = await steps.recall(step, after)
    if known is not None:
        return known
    steps.raise_kept(step)
    await rest.begin()
    try:
        started_at = engine.clock.now()

        def item(output: Any) -> RunItem:
            return steps.item(step, after, encode(output, f"the output of step {step!r}"), started_at)

        try:
            with Inside(step):
                output, status = await once(engine.pool, claimed.id, claimed.attempt, step, item, write)
        except Exception as error:
            steps.give_up(step, error)
            raise
        steps.written(status, step)
    finally:
        rest.done()
    return output


async def once(
    pool: Pool,
    run_id: int,
    attempt: int,
    step: str,
    item: Callable[[Any], RunItem],
    write: Callable[[Keep], Awaitable[Any]],
) -> tuple[str, ItemStatus]:
    """Run `write`, which runs the author's function and then keeps its output; the output as JSON, and its status.

    Where the connection breaks, it is run again. Where it breaks in the commit, nobody knows whether that arrived: then
    the checkpoint tells.
    """
    for pause in RECONNECT_PAUSES:
        try:
            return await _once(pool, run_id, attempt, step, item, write)
        except _LostError as lost:
            log.warning("transaction_repeated", run=run_id, step=step, error=str(lost.__cause__).strip(), pause_s=pause)
            await asyncio.sleep(pause)
    try:
        return await _once(pool, run_id, attempt, step, item, write)
    except _LostError as lost:
        raise (lost.__cause__ or lost) from None


async def _once(
    pool: Pool,
    run_id: int,
    attempt: int,
    step: str,
    item: Callable[[Any], RunItem],
    write: Callable[[Keep], Awaitable[Any]],
) -> tuple[str, ItemStatus]:
    written: list[RunItem] = []

    async def keep(connection: Connection, output: Any) -> None:
        new = item(output)
        await connection.execute(FROZEN)
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
    except (_LostError, psycopg.OperationalError):
        if not written:
            raise

        async def read() -> Checkpoint | None:
            async with pool.connection() as connection:
                return await read_checkpoint(connection, run_id, step)

        found = await through_reconnects(read, f"step {step!r}")
        if found is None or found.attempt != attempt:
            raise
    return written[0].body or "null", "ok"


async def with_psycopg(
    pool: Pool, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], keep: Keep
) -> None:
    """Call `function` with a psycopg connection in a transaction."""
    async with pool.connection() as connection:
        try:
            async with connection.transaction():
                await keep(connection, await function(connection, *args, **kwargs))
        except psycopg.OperationalError as error:
            if connection.closed:
                raise _LostError from error
            raise


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
    from sqlalchemy.exc import DBAPIError

    try:
        async with engine.begin() as connection:
            raw = await connection.get_raw_connection()
            driver = raw.driver_connection
            if not isinstance(driver, psycopg.AsyncConnection):
                raise TypeError(f"{engine.url.drivername} has another driver than psycopg: use postgresql+psycopg://")
            output = await function(connection, *args, **kwargs)
            await driver.execute("select set_config('search_path', %s, true)", [search_path])
            await keep(driver, output)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _LostError from error
        raise
    except psycopg.OperationalError as error:
        if driver is not None and driver.closed:
            raise _LostError from error
        raise
