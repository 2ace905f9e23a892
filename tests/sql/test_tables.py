"""The SQLAlchemy tables say what the database has: names, types, nullability and primary keys, nothing more or less."""

from __future__ import annotations

import psycopg
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from howdah.sql.tables import metadata

DIALECT = postgresql.dialect()
COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), not a.attnotnull,
           coalesce(a.attnum = any (i.indkey::smallint[]), false)
    from pg_attribute as a
    left join pg_index as i on i.indrelid = a.attrelid and i.indisprimary
    where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""
# How the catalogue calls what DDL calls otherwise.
NAMES = {"TIMESTAMP WITH TIME ZONE": "timestamp with time zone", "NUMERIC(12, 6)": "numeric(12,6)"}
NAMES |= {"NUMERIC(18, 9)": "numeric(18,9)"}


def test_a_mirrored_table_is_the_databases_own(db: psycopg.Connection) -> None:
    for table in metadata.sorted_tables:
        mirrored = []
        for column in table.columns:
            ddl = column.type.compile(dialect=DIALECT)
            mirrored.append((column.name, NAMES.get(ddl, ddl.lower()), column.nullable, column.primary_key))
        assert mirrored == db.execute(COLUMNS, [table.name]).fetchall(), str(CreateTable(table))
