"""What an API process is made of: everything is opened here, in order, and closed in the opposite one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from howdah.app.claim_waiter import ClaimWaiter
from howdah.app.keys import KeyRing
from howdah.app.realtime.admission import Admission
from howdah.app.realtime.hub import Hub
from howdah.app.run_waiter import RunWaiter
from howdah.app.settings import Settings
from howdah.app.task_registry import TaskRegistry
from howdah.router.embeddings import Embedder, WordLlamaEmbedder
from howdah.sql.errors import DatabaseUnfit
from howdah.sql.group_commit import GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import (
    Connection,
    Pool,
    cell_conninfo,
    check_database,
    check_search_path,
    connect,
    is_pooled,
    make_pool,
    session_arguments,
)
from howdah.sql.queue.calls import Enqueued, NewRun
from howdah.sql.queue.writer import enqueue_writer
from howdah.sql.schema import ROOT
from howdah.sql.stream.calls import Appended, NewEvent
from howdah.sql.stream.partial_sender import PartialSender
from howdah.sql.stream.writer import event_writer
from howdah.sql.tables import metadata
from howdah.sql.workflow.calls import ItemStatus, RunItem
from howdah.sql.workflow.writer import run_writer

# A list that needs longer is asked for too much: the client gets a problem, the database its time back.
READ_SECONDS = 10
# Connections that the writers keep, and the hub, and the fewest for all else.
WRITERS, HUB, MIN_POOL = 3, 2, 2
# Lists are short and rare beside writes: half of the pool's size, and at least two.
MIN_READ_CONNECTIONS = 2
# The areas whose functions this process calls; each file there is named for its function.
AREAS = ("tenancy", "queue", "schedule", "stream", "retrieval", "models", "workflow")


@dataclass(slots=True)
class Resources:
    """All that handlers share. `engine` is for read queries only; writes go through SQL functions on `pool`."""

    settings: Settings
    pool: Pool
    notifier: Notifier
    enqueuer: GroupCommit[NewRun, Enqueued]
    appender: GroupCommit[NewEvent, Appended]
    partials: PartialSender
    run_items: GroupCommit[RunItem, ItemStatus]
    engine: AsyncEngine
    hub: Hub
    admission: Admission
    waiter: RunWaiter
    claims: ClaimWaiter
    embedder: Embedder
    keys: KeyRing
    tasks: TaskRegistry

    def begin_shutdown(self) -> None:
        """Let go of everyone who only waits, so that open requests can end."""
        self.waiter.release()
        self.claims.release()
        self.hub.close()


@asynccontextmanager
async def open_resources(settings: Settings, database_url: str) -> AsyncIterator[Resources]:
    """Everything that an API process needs, open.

    Raises
    ------
    DatabaseUnfit
        If the server or its pgvector is too old, or the schema is missing or not that of this release.
    """
    await check_fit(settings, database_url)
    conninfo = cell_conninfo(database_url, settings.cell, "howdah-api", pooled=settings.pooled)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            make_pool(conninfo, max_size=max(MIN_POOL, settings.api_pool_size - WRITERS - HUB))
        )
        # Runs, events, workers' items, hints, partials: each writes one batch at a time, and tries again by itself.
        writes = await stack.enter_async_context(make_pool(conninfo, max_size=WRITERS, check=False))
        engine = make_read_engine(conninfo, max(MIN_READ_CONNECTIONS, settings.api_pool_size // 2))
        stack.push_async_callback(engine.dispose)
        notifier = Notifier(writes, settings.cell)
        stack.push_async_callback(notifier.aclose)
        enqueuer = enqueue_writer(writes, notifier)
        stack.push_async_callback(enqueuer.drain)
        appender = event_writer(writes, notifier)
        stack.push_async_callback(appender.drain)
        partials = PartialSender(writes)
        stack.push_async_callback(partials.aclose)
        run_items = run_writer(writes, overtake=False)
        stack.push_async_callback(run_items.drain)
        waiter = RunWaiter(pool)
        stack.push_async_callback(waiter.aclose)
        claims = ClaimWaiter(conninfo, settings.cell)
        stack.push_async_callback(claims.aclose)
        # Not asked before each use whether it still lives: a round trip more, and the hub tries again by itself.
        looks = await stack.enter_async_context(make_pool(conninfo, max_size=HUB, check=False))
        hub = await stack.enter_async_context(Hub(looks, conninfo, settings.cell))
        yield Resources(
            settings=settings,
            pool=pool,
            notifier=notifier,
            enqueuer=enqueuer,
            appender=appender,
            partials=partials,
            run_items=run_items,
            engine=engine,
            hub=hub,
            admission=Admission(settings.streams_per_process, settings.streams_per_tenant, settings.streams_per_key),
            waiter=waiter,
            claims=claims,
            embedder=WordLlamaEmbedder(),
            keys=KeyRing(pool),
            tasks=TaskRegistry(engine),
        )


async def check_fit(settings: Settings, database_url: str) -> None:
    """Refuse a database that this release cannot use; errors as for :func:`open_resources`."""
    conninfo = cell_conninfo(database_url, settings.cell, "howdah-check", pooled=settings.pooled)
    async with await connect(conninfo) as connection:
        await check_database(connection)
        await check_search_path(connection, settings.cell)
        await check_schema(connection)


def make_read_engine(conninfo: str, size: int) -> AsyncEngine:
    """An engine for lists and lookups, on the connection string's cell; each query has :data:`READ_SECONDS`."""
    if is_pooled(conninfo):
        return _make_pooled_read_engine(conninfo, size)
    options = conninfo_to_dict(conninfo).get("options") or ""
    timeout = f"-c statement_timeout={READ_SECONDS}s -c default_transaction_read_only=on"
    dsn = make_conninfo(conninfo, options=f"{options} {timeout}".strip())
    return create_async_engine(
        make_url("postgresql+psycopg://"),
        # Reads are single statements; a transaction around each would be two more round trips.
        isolation_level="AUTOCOMMIT",
        async_creator=lambda: psycopg.AsyncConnection.connect(dsn),
        pool_size=size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=READ_SECONDS,
    )


def _make_pooled_read_engine(conninfo: str, size: int) -> AsyncEngine:
    """The same through a pooler: a limit of the session would be lost or another's, so each read is a transaction."""
    engine = create_async_engine(
        make_url("postgresql+psycopg://"),
        async_creator=lambda: psycopg.AsyncConnection.connect(conninfo, **session_arguments(conninfo)),
        pool_size=size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=READ_SECONDS,
    )

    def limit(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql(
            f"select set_config('statement_timeout', '{READ_SECONDS}s', true),"
            " set_config('transaction_read_only', 'on', true)"
        )

    event.listen(engine.sync_engine, "begin", limit)
    return engine


async def check_schema(connection: Connection) -> None:
    """Refuse a cell that has not what this release reads and calls.

    Raises
    ------
    DatabaseUnfit
        Naming what is missing, and what to do.
    """
    functions = [
        file.stem
        for area in AREAS
        for file in sorted((ROOT / area).glob("*.sql"))
        if file.stem not in ("tables", "types")
    ]
    cursor = await connection.execute(
        "select name from unnest(%s::text[]) as name"
        " where to_regclass(quote_ident(current_schema()) || '.' || quote_ident(name)) is null"
        " union all"
        " select name || '()' from unnest(%s::text[]) as name where not exists ("
        "   select from pg_proc where proname = name and pronamespace = current_schema()::regnamespace)",
        [sorted(metadata.tables), functions],
    )
    missing = [name for (name,) in await cursor.fetchall()]
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DatabaseUnfit(
            f"the schema is missing or not that of this release (no {named}): run `howdah migrate`;"
            " if that changes nothing, an unreleased version made it: start anew (the embedded one: `make clean`)"
        )


async def check_ready(resources: Resources, seconds: float) -> None:
    """Whether this process can serve: the database answers within `seconds`, and the schema is this release's."""
    async with resources.pool.connection(timeout=seconds) as connection:
        await check_schema(connection)
    async with resources.engine.connect() as reading:
        await reading.execute(text("select 1"))
