"""A database of its own for each test: on the server of DATABASE_URL, or on an embedded one that ends with them."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from howdah.app import embedded
from howdah.sql.schema import install

# What a test leaves is thrown away: it need not survive the machine.
PARAMETERS = {"fsync": "off", "shared_buffers": "128MB", "max_wal_size": "256MB"}
ROOM = 4 << 30  # bytes free in memory, from which on the data lies there: a database is 500 files


class FreshDatabases:
    """Clones of a template with the schema, which is made once for each cell."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._own = f"howdah_test_{secrets.token_hex(4)}"
        self._made = 0
        self._templates: dict[str, str] = {}

    @contextmanager
    def database(self, cell: str) -> Iterator[str]:
        """Connection string of a new database with this cell in it, until the block ends."""
        if cell not in self._templates:
            template = self._create("template0")
            self._templates[cell] = template
            with psycopg.connect(self._conninfo(template)) as connection:
                install(connection, cell)
        name = self._create(self._templates[cell])
        try:
            yield self._conninfo(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        """Drop the templates."""
        while self._templates:
            self._drop(self._templates.popitem()[1])

    def _create(self, template: str) -> str:
        self._made += 1
        name = f"{self._own}_{self._made}"
        try:
            self._execute("create database {} template {}", name, template)
        except psycopg.errors.InsufficientPrivilege as error:
            raise RuntimeError(
                f"tests need databases of their own, and this role may not make any ({str(error).strip()}): grant it"
                " createdb, or unset DATABASE_URL to use the embedded server"
            ) from error
        return name

    def _drop(self, name: str) -> None:
        self._execute("drop database if exists {} with (force)", name)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _conninfo(self, name: str) -> str:
        return make_conninfo(self._url, dbname=name)


@contextmanager
def fresh_databases() -> Iterator[FreshDatabases]:
    """On the server of DATABASE_URL, whose own database is left alone, or on an embedded one."""
    url = os.environ.get("DATABASE_URL")
    folder = None if url else Path(tempfile.mkdtemp(prefix="howdah-tests-", dir=_in_memory()))
    try:
        if folder is not None:
            url = embedded.start(folder, PARAMETERS).url
        assert url is not None
        databases = FreshDatabases(url)
        try:
            yield databases
        finally:
            databases.close()
    finally:
        if folder is not None:
            embedded.remove(folder)


def _in_memory() -> Path | None:
    memory = Path("/dev/shm")  # noqa: S108
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM else None
