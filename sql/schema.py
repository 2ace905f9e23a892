"""The schema's source: which files make it, in which order, and how they are put into a database."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

ROOT = Path(__file__).parent

# Tables refer backwards only, so this order is also the order of knowledge between areas.
AREAS = ("tenancy", "queue", "schedule", "workflow", "stream", "retrieval", "models", "procrastinate")
OPERATOR_AREA = "ops"

DEFAULT_CELL = "howdah"
_CELL_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")


def operator_schema(cell: str) -> str:
    """Name of the operator schema beside a cell: ``ops`` for the default cell, ``<cell>_ops`` for others."""
    return "ops" if cell == DEFAULT_CELL else f"{cell}_ops"


def _files(area: str) -> list[Path]:
    """The files of an area: tables and views, and one function a file."""
    files = sorted((ROOT / area).glob("*.sql"))
    if area == OPERATOR_AREA:
        # Its views call its functions; elsewhere functions speak of views.
        return sorted(files, key=lambda path: path.stem == "views")
    return sorted(files, key=lambda path: path.stem not in ("types", "tables", "views"))


def schema_sql(cell: str = DEFAULT_CELL) -> str:
    """The whole schema as one SQL script, for a database that has none yet.

    Raises
    ------
    ValueError
        If `cell` is not a plain lower-case identifier of up to 41 characters.
    """
    if not _CELL_NAME.fullmatch(cell):
        raise ValueError(f"cell {cell!r} is not a name: use lower-case letters, digits and _, beginning with a letter")
    ops = operator_schema(cell)
    parts = [
        "create extension if not exists vector with schema public;",
        f"create schema {cell};",
        f"create schema {ops};",
        # Functions may call one another in any order; a test compiles each of them once all are there.
        "set local check_function_bodies = off;",
        f"set local search_path = {cell}, public;",
        *(path.read_text() for area in AREAS for path in _files(area)),
        "select * from prepare_partitions();",
        f"set local search_path = {ops}, {cell}, public;",
        *(path.read_text() for path in _files(OPERATOR_AREA)),
        f"set local search_path = {cell}, public;",
        f"select grant_operators('{ops}');",
    ]
    return "\n".join(parts)


def install(connection: psycopg.Connection, cell: str = DEFAULT_CELL) -> None:
    """Put the schema into the connection's database, in one transaction."""
    with connection.transaction():
        connection.execute(schema_sql(cell).encode())
