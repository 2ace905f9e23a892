"""Every test has a real database: one server a session, a template with the schema, a clone a test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pytest_postgresql import factories

from howdah.app import embedded
from howdah.sql.pool import Connection, Pool, cell_conninfo, make_pool
from howdah.sql.schema import install


def _server() -> dict[str, str]:
    """Where the tests' server is: DATABASE_URL, or an embedded one that ends with the tests."""
    url = os.environ.get("DATABASE_URL")
    if url is None:
        folder = Path(tempfile.mkdtemp(prefix="howdah-tests-"))
        server = embedded.start(folder, {"fsync": "off", "shared_buffers": "128MB"})
        _started.append(folder)
        url = server.url
    given = conninfo_to_dict(url)
    return {name: str(value) for name, value in given.items() if value is not None}


_started: list[Path] = []


def pytest_configure(config: pytest.Config) -> None:
    server = _server()
    config.option.postgresql_host = server.get("host", "127.0.0.1")
    config.option.postgresql_port = server.get("port", "5432")
    config.option.postgresql_user = server.get("user", "postgres")
    config.option.postgresql_password = server.get("password", "")
    config.option.postgresql_dbname = f"howdah_test_{os.getpid()}"


def pytest_unconfigure() -> None:
    for folder in _started:
        embedded.remove(folder)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        program = marker.args[0]
        if shutil.which(program) is None:
            reason = f"{program} is not installed"
            if os.environ.get("HOWDAH_FORBID_SKIPS"):
                pytest.fail(f"{reason}, and HOWDAH_FORBID_SKIPS forbids leaving this test out")
            pytest.skip(reason)


def _install(**connection: object) -> None:
    with psycopg.connect(**connection) as opened:  # type: ignore[arg-type]
        install(opened)


postgresql_noproc = factories.postgresql_noproc(load=[_install])
postgresql = factories.postgresql("postgresql_noproc")


@pytest.fixture
def database_url(postgresql: psycopg.Connection) -> str:
    """URL of this test's own database, with the schema in it."""
    info = postgresql.info
    password = f":{info.password}" if info.password else ""
    return f"postgresql://{info.user}{password}@{info.host}:{info.port}/{info.dbname}"


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
