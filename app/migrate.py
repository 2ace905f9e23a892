"""Bringing a database to this release's schema, and asking whether it is there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import psycopg.sql
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import howdah.migrations
from howdah.sql.pool import Connection
from howdah.sql.schema import DEFAULT_CELL

VERSION_TABLE = "alembic_version"


def upgrade(database_url: str, cell: str = DEFAULT_CELL) -> None:
    """Migrate a cell to the newest revision; one that is there already is left as it is.

    Processes that start together take turns. It blocks: call it before the event loop, and from one thread at a time,
    for alembic keeps its context in the module.

    Raises
    ------
    ValueError
        If `cell` is not a plain name.
    psycopg.Error, sqlalchemy.exc.DBAPIError
        If the database cannot be reached or refuses; nothing of the refused revision stays.
    """
    config = _config()
    config.attributes.update(database_url=database_url, cell=cell)
    command.upgrade(config, "head")


@cache
def newest_revision() -> str:
    """The revision that this release needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


async def current_revision(connection: Connection, cell: str = DEFAULT_CELL) -> str | None:
    """The revision a cell is at; None where it has none."""
    table = psycopg.sql.Identifier(cell, VERSION_TABLE)
    row = await (await connection.execute("select to_regclass(%s)", [table.as_string(connection)])).fetchone()
    if row is None or row[0] is None:
        return None
    cursor = await connection.execute(psycopg.sql.SQL("select version_num from {}").format(table))
    found = await cursor.fetchone()
    return found[0] if found else None


async def is_current(connection: Connection, cell: str = DEFAULT_CELL) -> bool:
    """Whether a cell is at the revision that this release needs."""
    return await current_revision(connection, cell) == newest_revision()


def _config() -> Config:
    # In code, not in a file: the working directory of a worker or a test is anybody's.
    config = Config()
    folder = str(Path(howdah.migrations.__file__ or "").parent)
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
