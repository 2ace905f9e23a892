"""Frozen SQL: a revision's own copy of `sql/`, written for a cell of a stand-in name."""

from __future__ import annotations

import re

from howdah.sql.schema import operator_schema, schema_sql

STAND_IN = "the_cell"


def freeze() -> str:
    """The schema as it is now. Without `create schema` for the cell: the version table is there before the baseline."""
    return schema_sql(STAND_IN).replace(f"create schema {STAND_IN};\n", "", 1)


def for_cell(frozen: str, cell: str) -> str:
    """Frozen SQL with the names of a real cell."""
    names = {operator_schema(STAND_IN): operator_schema(cell), STAND_IN: cell}
    return re.sub(rf"\b({'|'.join(names)})\b", lambda match: names[match[0]], frozen)
