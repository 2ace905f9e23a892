"""Every test has a real database: one server a test process, a template with the schema, a clone a test."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from pytest_postgresql.janitor import DatabaseJanitor

from howdah.app import embedded
from howdah.sql.pool import Connection, Pool, cell_conninfo, make_pool
from howdah.sql.schema import install


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Begun last, a long one would keep the other test processes waiting.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        program = marker.args[0]
        if shutil.which(program) is None:
            reason = f"{program} is not installed"
            if os.environ.get("HOWDAH_FORBID_SKIPS"):
                pytest.fail(f"{reason}, and HOWDAH_FORBID_SKIPS forbids leaving this test out")
            pytest.skip(reason)


class Databases:
    """Makes databases on the tests' server, of names that no other test process uses there."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(url) as connection:
            info = connection.info
            self._server: dict[str, Any] = {
                "user": info.user,
                "host": info.host,
                "port": info.port,
                "password": info.password or None,
            }
        own = secrets.token_hex(4)
        self._names = (f"howdah_test_{own}_{number}" for number in itertools.count())

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The name of a new database, empty or a clone of `template`, until the block ends."""
        name = next(self._names)
        with DatabaseJanitor(dbname=name, template_dbname=template, **self._server):
            yield name

    def url(self, name: str) -> str:
        """URL of a database, as the tests' user."""
        server = self._server
        password = f":{quote(server['password'], safe='')}" if server["password"] else ""
        return f"postgresql://{quote(server['user'], safe='')}{password}@{server['host']}:{server['port']}/{name}"


def _in_memory() -> Path | None:
    """A folder in memory, where there is one with room: a clone is 500 files, and on disk costs more than its test."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 4 << 30 else None


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """On the server of DATABASE_URL, or on an embedded one that ends with the tests."""
    url = os.environ.get("DATABASE_URL")
    folder = None if url else Path(tempfile.mkdtemp(prefix="howdah-tests-", dir=_in_memory()))
    try:
        if folder is not None:
            url = embedded.start(folder, {"fsync": "off", "shared_buffers": "128MB", "max_wal_size": "256MB"}).url
        assert url is not None
        yield Databases(url)
    finally:
        if folder is not None:
            embedded.remove(folder)


@pytest.fixture(scope="session")
def template(databases: Databases) -> Iterator[str]:
    """The name of a database with the schema in it."""
    with databases.database() as name:
        with psycopg.connect(databases.url(name)) as opened:
            install(opened)
        yield name


@pytest.fixture
def database_url(databases: Databases, template: str) -> Iterator[str]:
    """URL of this test's own database, with the schema in it."""
    with databases.database(template) as name:
        yield databases.url(name)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """URL of a database of this test's own, without Howdah's schema."""
    with databases.database() as name:
        yield databases.url(name)


@pytest.fixture
def conninfo(database_url: str) -> str:
    """libpq connection string of this test's cell."""
    return cell_conninfo(database_url)


@pytest.fixture
def db(conninfo: str) -> Iterator[psycopg.Connection]:
    """A synchronous connection in autocommit, search_path on the cell."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def pool(conninfo: str) -> AsyncIterator[Pool]:
    """An open pool of this test's cell."""
    async with make_pool(conninfo) as opened:
        yield opened


@pytest.fixture
async def connection(pool: Pool) -> AsyncIterator[Connection]:
    """One asynchronous connection of this test's cell."""
    async with pool.connection() as opened:
        yield opened
