"""How migrations reach a database: one at a time, under time limits; a cell keeps its own version."""

from __future__ import annotations

import os

import psycopg
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from howdah.sql.schema import DEFAULT_CELL, schema_sql

# Another process may be migrating: its whole baseline takes seconds, so after two minutes something is wrong.
WAIT_FOR_OTHERS = "120s"
# Whoever waits for a table's lock makes all later queries wait behind it: give up before callers do, and try again.
LOCK_TIMEOUT = "4s"
# A statement that needs longer rewrites or scans a table: that belongs in batches, beside the running release.
STATEMENT_TIMEOUT = "60s"
# One lock for the database, not one a cell: the extension belongs to all cells.
LOCK_NAME = "howdah.migrations"


def run() -> None:
    """Migrate the cell named by the configuration, else by HOWDAH_CELL."""
    attributes = context.config.attributes
    cell: str = attributes.get("cell") or os.environ.get("HOWDAH_CELL") or DEFAULT_CELL
    url: str | None = attributes.get("database_url") or os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL is not set: name the database to migrate, as postgresql://user@host:port/name")
    schema_sql(cell)  # Refuses what is not a plain name, before it is written into a statement.
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
    with engine.connect() as connection:
        _wait_for_others(connection)
        # Not the cell's path: the extension must not land in one cell.
        _commit(connection, "set search_path = public")
        _commit(connection, f"set lock_timeout = '{LOCK_TIMEOUT}'")
        _commit(connection, f"set statement_timeout = '{STATEMENT_TIMEOUT}'")
        _commit(connection, f"create schema if not exists {cell}")
        context.configure(
            connection=connection,
            version_table_schema=cell,
            transaction_per_migration=True,
            target_metadata=None,
        )
        with context.begin_transaction():
            context.run_migrations()


def _wait_for_others(connection: Connection) -> None:
    """Take the session's lock, which ends with the connection."""
    _commit(connection, f"set statement_timeout = '{WAIT_FOR_OTHERS}'")
    _commit(connection, f"select pg_advisory_lock(hashtextextended('{LOCK_NAME}', 0))")


def _commit(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)
    connection.commit()


if context.is_offline_mode():
    raise SystemExit("SQL scripts are not written: run the migrations against a database, or install sql/ itself")
run()
