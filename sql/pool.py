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


def cell_conninfo(database_url: str, cell: str = DEFAULT_CELL, application_name: str = "howdah") -> str:
    """`database_url` as a libpq connection string whose search_path is the cell's.

    Options that the URL brings itself are kept.
    """
    given: Mapping[str, Any] = conninfo_to_dict(database_url)
    options = f"{given.get('options') or ''} -c search_path={cell},public".strip()
    return make_conninfo(
        database_url, options=options, application_name=given.get("application_name") or application_name
    )


def make_pool(conninfo: str, *, min_size: int = 1, max_size: int = 4) -> Pool:
    """A pool, not yet open. Connections are in autocommit: each engine call is a transaction of its own."""
    return AsyncConnectionPool(
        conninfo,
        min_size=min_size,
        max_size=max_size,
        open=False,
        kwargs={"autocommit": True},
        check=AsyncConnectionPool.check_connection,
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
