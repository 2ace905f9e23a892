"""A server that runs on deploy/postgresql.conf, and asks the user howdah for a password as the compose file's does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from howdah.app import embedded
from tests.deploy.images import DEPLOY
from tests.deploy.server_settings import read_postgresql_conf

# Every character that a URL, a shell or YAML would take for something else.
PASSWORD = "p@ss:w/rd?#%41 '$x\""


@dataclass(frozen=True, slots=True)
class ConfiguredServer:
    """A server on deploy/postgresql.conf. `url` is its superuser's; user howdah needs :data:`PASSWORD`."""

    url: str
    port: int


@pytest.fixture(scope="session")
def configured_server() -> Iterator[ConfiguredServer]:
    # Not pytest's own temporary folder, which the user that the server runs as may not enter.
    top = Path(tempfile.mkdtemp(prefix="howdah-configured-"))
    top.chmod(0o755)
    folder = top / "postgres"
    try:
        config = shutil.copy(DEPLOY / "postgresql.conf", top)
        server = embedded.start(folder, {**read_postgresql_conf(), "config_file": str(config)})
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(sql.SQL("create role howdah login superuser password {}").format(sql.Literal(PASSWORD)))
            connection.execute("create database howdah owner howdah")
            hba = folder / "pg_hba.conf"
            hba.write_text("host all howdah 127.0.0.1/32 scram-sha-256\nhost all postgres 127.0.0.1/32 trust\n")
            connection.execute("select pg_reload_conf()")
        yield ConfiguredServer(server.url, server.port)
    finally:
        embedded.remove(folder)
        shutil.rmtree(top, ignore_errors=True)
