"""The server to measure on, and a database of its own for each round."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from howdah.app import embedded
from howdah.app.keys import new_api_key
from howdah.sql.pool import cell_conninfo


@contextmanager
def server() -> Iterator[str]:
    """URL of the server that DATABASE_URL names, or of an embedded one that is removed afterwards.

    The embedded one has the settings it has in production, so every commit is flushed to disk.
    """
    # So that a stopped program still removes what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if url := os.environ.get("DATABASE_URL"):
        if "://" not in url:
            raise SystemExit(f"DATABASE_URL={url!r} cannot be used here: give a URL, postgresql://user@host:port/name")
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="howdah-server-"))
    try:
        yield embedded.start(folder).url
    finally:
        embedded.remove(folder)


@contextmanager
def fresh_database(server_url: str, purpose: str) -> Iterator[str]:
    """URL of a new, empty database on the server; dropped afterwards."""
    name = f"howdah_{purpose}_{os.getpid()}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        drop = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        connection.execute(drop)
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        try:
            yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(drop)


def settle(url: str) -> None:
    """Put a freshly filled database into the state of one that has been running: with statistics, and no writes due."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum (analyze)")
        connection.execute("checkpoint")


def api_key(url: str) -> str:
    """A new key of the tenant `default`."""
    key = new_api_key()
    with psycopg.connect(cell_conninfo(url)) as connection:
        connection.execute("select create_api_key(%s, 'default', 'bench', sha256(%s))", [key.id, key.secret.encode()])
    return key.text


async def database_time(connection: psycopg.AsyncConnection) -> datetime:
    """The server's clock, now."""
    row = await (await connection.execute("select clock_timestamp()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


@contextmanager
def held_snapshot(url: str) -> Iterator[None]:
    """A transaction that sees the database as it is now, and keeps vacuum from removing what dies meanwhile."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select count(*) from pg_class")
        yield


def count(url: str, rows: str) -> int:
    """How many rows the query `rows` has."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(f"select count(*) from ({rows}) as r").fetchone()
    assert row is not None
    number: int = row[0]
    return number
