"""The server to measure on, and a database of its own for each round."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from howdah.app import embedded


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
