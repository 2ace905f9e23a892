"""Which database this installation uses, started and migrated if need be."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from howdah.app import embedded
from howdah.app.embedded import EmbeddedPostgres
from howdah.app.settings import Settings
from howdah.sql.pool import Connection, cell_conninfo, check_database


class NoDatabaseError(RuntimeError):
    """There is nothing to connect to; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database. `server` is set where it is the embedded one; `started_here` where this call started it."""

    url: str
    server: EmbeddedPostgres | None
    started_here: bool

    @property
    def psql(self) -> str:
        """The psql command that reaches it."""
        program = "psql" if self.server is None else str(self.server.psql)
        return f"{program} '{self.url}'"

    def stop(self) -> None:
        """Stop the embedded server if this process started it."""
        if self.server is not None and self.started_here:
            self.server.stop()


def data_folder(settings: Settings) -> Path:
    """Where the embedded server keeps its data."""
    return Path(settings.home) / "postgres"


def provide_database(settings: Settings) -> Database:
    """The database of `DATABASE_URL`, or the embedded one, running; its schema brought up to date."""
    refuse_pooler(settings)
    if settings.database_url is not None:
        database = Database(settings.database_url, None, started_here=False)
    else:
        folder = data_folder(settings)
        running = embedded.find_running(folder.resolve())
        database = Database("", running, started_here=False)
        if running is None:
            database = Database("", embedded.start(folder), started_here=True)
        assert database.server is not None
        database = Database(database.server.url, database.server, database.started_here)
    bring_up_to_date(database.url, settings.cell)
    return database


def refuse_pooler(settings: Settings) -> None:
    """Migrations need one session from end to end, for their lock and their time limits.

    Raises
    ------
    NoDatabaseError
        If the settings name a pooler in transaction mode.
    """
    if settings.pooled:
        raise NoDatabaseError(
            "HOWDAH_POOLED is true, and a migration cannot go through a pooler in transaction mode:"
            " set HOWDAH_POOLED=false, and DATABASE_URL to PostgreSQL itself"
        )


def bring_up_to_date(url: str, cell: str) -> None:
    """Migrate a cell to this release's schema. It blocks: call it outside the event loop.

    Raises
    ------
    DatabaseUnfit
        If the server or its pgvector is too old; nothing is written then.
    """

    async def check() -> None:
        async with await Connection.connect(cell_conninfo(url, cell, "howdah-migrate"), autocommit=True) as connection:
            await check_database(connection)

    # Here: alembic would be half of the time in which a command that migrates nothing starts.
    from howdah.app.migrate import upgrade

    asyncio.run(check())
    upgrade(url, cell)


def find_database(settings: Settings) -> str:
    """URL of the database that is there, for processes that do not bring one up.

    Raises
    ------
    NoDatabaseError
        If there is no `DATABASE_URL` and the embedded server does not run.
    """
    if settings.database_url is not None:
        return settings.database_url
    running = embedded.find_running(data_folder(settings).resolve())
    if running is None:
        raise NoDatabaseError(
            f"no database: set DATABASE_URL, or start the embedded PostgreSQL of {settings.home!r} with `howdah up`"
        )
    return running.url
