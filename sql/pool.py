"""Connections: how every process reaches its cell, and the check that the database can be used at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from howdah.sql.errors import DatabaseUnfit
from howdah.sql.schema import DEFAULT_CELL

MIN_POSTGRES = 16
MIN_PGVECTOR = (0, 8, 4)

Connection = psycopg.AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]


def cell_conninfo(
    database_url: str, cell: str = DEFAULT_CELL, application_name: str = "howdah", *, pooled: bool = False
) -> str:
    """`database_url` as a libpq connection string whose search_path is the cell's.

    Options that the URL brings itself are kept. With `pooled` the URL is that of a pooler in transaction mode, which
    refuses or forgets a client's search_path: it must be the role's own, see :func:`check_search_path`.
    """
    given: Mapping[str, Any] = conninfo_to_dict(database_url)
    name = given.get("application_name") or application_name
    if pooled:
        return make_conninfo(database_url, application_name=name)
    options = f"{given.get('options') or ''} -c search_path={cell},public".strip()
    return make_conninfo(database_url, options=options, application_name=name)


def is_pooled(conninfo: str) -> bool:
    """Whether :func:`cell_conninfo` made this for a pooler: then every transaction may be in another session."""
    return "search_path=" not in str(conninfo_to_dict(conninfo).get("options") or "")


def session_arguments(conninfo: str) -> dict[str, Any]:
    """Arguments of psycopg's `connect`: a statement prepared in one session is unknown to the next."""
    return {"prepare_threshold": None} if is_pooled(conninfo) else {}


async def connect(conninfo: str) -> Connection:
    """One connection of its own, in autocommit."""
    return await Connection.connect(conninfo, autocommit=True, **session_arguments(conninfo))


def make_pool(conninfo: str, *, min_size: int = 1, max_size: int = 4, check: bool = True) -> Pool:
    """A pool, not yet open. Connections are in autocommit: each engine call is a transaction of its own.

    `check` asks the server before a connection is lent, a round trip; not for callers who try again by themselves.
    """
    return AsyncConnectionPool(
        conninfo,
        min_size=min_size,
        max_size=max_size,
        open=False,
        kwargs={"autocommit": True, **session_arguments(conninfo)},
        check=AsyncConnectionPool.check_connection if check else None,
        connection_class=psycopg.AsyncConnection[TupleRow],
    )


async def check_database(connection: Connection) -> None:
    """Refuse a database that Howdah cannot run on.

    Raises
    ------
    DatabaseUnfit
        If it is older than PostgreSQL 16 or has no pgvector of 0.8.4 or later to offer.
    """
    if connection.info.server_version < MIN_POSTGRES * 10000:
        found = connection.info.parameter_status("server_version")
        raise DatabaseUnfit(f"this is PostgreSQL {found}, Howdah needs {MIN_POSTGRES} or later: upgrade the server")
    cursor = await connection.execute(
        "select coalesce((select extversion from pg_extension where extname = 'vector'),"
        " (select default_version from pg_available_extensions where name = 'vector'))"
    )
    row = await cursor.fetchone()
    version = row[0] if row else None
    needed = ".".join(map(str, MIN_PGVECTOR))
    if version is None:
        raise DatabaseUnfit(f"the server has no pgvector: install pgvector {needed} or later on it")
    if tuple(int(part) for part in version.split(".")) < MIN_PGVECTOR:
        raise DatabaseUnfit(
            f"the database has pgvector {version}, Howdah needs {needed} or later:"
            " install it, then `alter extension vector update`"
        )


async def check_search_path(connection: Connection, cell: str) -> None:
    """Refuse a connection on which the cell is there, but would not be found.

    Raises
    ------
    DatabaseUnfit
        If its search_path does not begin with `cell`, as happens behind a pooler.
    """
    cursor = await connection.execute(
        "select current_setting('search_path'), current_user, current_database()"
        " where to_regnamespace(%s) is not null and current_schema() is distinct from %s::name",
        [cell, cell],
    )
    row = await cursor.fetchone()
    if row is not None:
        found, user, database = row
        raise DatabaseUnfit(
            f"through this pooler the search_path is {found}, without {cell} in front: type in psql"
            f' `alter role "{user}" in database "{database}" set search_path = {cell}, public`,'
            " then let the pooler reconnect"
        )
