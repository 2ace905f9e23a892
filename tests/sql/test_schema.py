"""The rules that every file of `sql/` keeps."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest

from howdah.sql import errors
from howdah.sql.schema import AREAS, OPERATOR_AREA, ROOT

FILES = sorted(ROOT.glob("*/*.sql"))
FUNCTIONS = [path for path in FILES if path.stem not in ("types", "tables", "views")]
README = (ROOT / "README.md").read_text()

_COMMENT = re.compile(r"--[^\n]*")
_STRING = re.compile(r"'(?:[^']|'')*'")
_CREATES_FUNCTION = re.compile(r"\bcreate\s+(?:or\s+replace\s+)?function\s+(\S+?)\s*\(")
# What names a relation or a function, followed by schema.name. `distinct from` and `extract(… from` name values.
_QUALIFIED = re.compile(
    r"(?<!distinct )\b(?:from|join|into|update|perform|references|table|view|type|function|sequence)\s+(\w+\.\w+)"
)
_SCHEMA = re.compile(r"\b(?:howdah|ops|public|pg_temp)\s*\.\s*\w+")


def code(path: Path) -> str:
    """A file's statements without comments and strings."""
    return _STRING.sub("''", _COMMENT.sub("", path.read_text()))


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def test_every_area_is_installed() -> None:
    assert {path.parent.name for path in FILES} == {*AREAS, OPERATOR_AREA}


def test_a_file_holds_one_function_of_its_own_name() -> None:
    assert len(FUNCTIONS) > 100
    held = {name(path): _CREATES_FUNCTION.findall(code(path)) for path in FUNCTIONS}
    assert held == {name(path): [path.stem] for path in FUNCTIONS}


def test_no_name_is_qualified_by_a_schema() -> None:
    qualified = {name(path): _SCHEMA.findall(code(path)) + _QUALIFIED.findall(code(path)) for path in FILES}
    assert {path: names for path, names in qualified.items() if names} == {}


def test_every_function_compiles_once_all_are_there(db: psycopg.Connection) -> None:
    again = {"create function": "create or replace function", "create trigger": "create or replace trigger"}
    for path in FUNCTIONS:
        area = path.parent.name
        db.execute(f"set search_path = {'ops, howdah, public' if area == OPERATOR_AREA else 'howdah, public'}".encode())
        script = path.read_text()
        for first, repeated in again.items():
            script = script.replace(first, repeated)
        try:
            db.execute(f"set check_function_bodies = on; {script}".encode())
        except psycopg.Error as error:
            pytest.fail(f"{name(path)}: {error}")


def test_tables_have_no_triggers(db: psycopg.Connection) -> None:
    found = db.execute(
        "select c.relname, t.tgname from pg_trigger t join pg_class c on c.oid = t.tgrelid"
        " where not t.tgisinternal and c.relkind in ('r', 'p')"
    )
    assert found.fetchall() == []


def test_every_sqlstate_that_sql_raises_is_in_the_error_map() -> None:
    raised = {state for path in FILES for state in re.findall(r"\bHW\d{3}\b", path.read_text())}
    assert "HW001" in raised
    assert raised <= set(errors.BY_SQLSTATE)


def test_the_readmes_error_table_is_the_error_map() -> None:
    rows = re.findall(r"^\| (HW\d{3}) \| (\d{3}) \| `(\w+)` \| (.+?) \|$", README, re.MULTILINE)
    assert rows == [(s, str(e.status), e.__name__, e.title) for s, e in sorted(errors.BY_SQLSTATE.items())]
