"""A database that cannot serve is refused with a sentence that says what to do, before anything is written to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from howdah.sql.errors import DatabaseUnfit
from howdah.sql.pool import Connection, cell_conninfo, check_database


class OtherServer:
    """What a connection to another server would answer: this machine has one version only."""

    def __init__(self, server_version: int, pgvector: str | None) -> None:
        self.info = SimpleNamespace(
            server_version=server_version,
            parameter_status=lambda _: f"{server_version // 10000}.{server_version % 100}",
        )
        self._pgvector = pgvector

    async def execute(self, _: str) -> Any:
        async def fetchone() -> tuple[str | None]:
            return (self._pgvector,)

        return SimpleNamespace(fetchone=fetchone)


async def test_this_database_serves(connection: Connection) -> None:
    await check_database(connection)


async def test_an_installed_pgvector_that_is_too_old_is_refused_with_the_way_out(connection: Connection) -> None:
    await connection.execute("update pg_extension set extversion = '0.7.4' where extname = 'vector'")
    with pytest.raises(
        DatabaseUnfit, match=r"has pgvector 0\.7\.4, Howdah needs 0\.8\.4.*alter extension vector update"
    ):
        await check_database(connection)


@pytest.mark.parametrize(
    ("server_version", "pgvector", "sentence"),
    [
        (150018, "0.8.6", r"this is PostgreSQL 15\.18, Howdah needs 16 or later: upgrade the server"),
        (160003, None, r"the server has no pgvector: install pgvector 0\.8\.4 or later"),
        (180006, "0.8.3", r"has pgvector 0\.8\.3"),
    ],
)
async def test_another_server_that_cannot_serve_is_refused(
    server_version: int, pgvector: str | None, sentence: str
) -> None:
    other: Any = OtherServer(server_version, pgvector)
    with pytest.raises(DatabaseUnfit, match=sentence):
        await check_database(other)


async def test_ten_is_more_than_nine_in_versions() -> None:
    other: Any = OtherServer(160003, "0.10.0")
    await check_database(other)


def test_a_url_brings_its_own_options_along() -> None:
    conninfo = cell_conninfo("postgresql://u@h/d?options=-c%20work_mem%3D64MB", "west")
    assert "work_mem=64MB" in conninfo
    assert "search_path=west,public" in conninfo
