"""What the pytest plugin promises to who has installed Howdah: fixtures that work, and no cost where they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

TASKS = """
from datetime import timedelta
from howdah.jobs import App, Run

app = App(cell="CELL")

@app.workflow(name="greet")
async def greet(run: Run, name: str) -> str:
    greeting = await run.step("greeting", str.title, name)
    await run.sleep("night", timedelta(hours=8))
    return f"{greeting}, {run.resource(dict)['by']}" if name == "resource" else greeting
"""

TESTS = """
import pytest

async def run(howdah, name):
    from datetime import timedelta
    from tasks import greet
    howdah.kill_at("greeting")
    run_id = (await howdah.run(greet, name)).run_id
    assert (await howdah.result(run_id)).state == "waiting"
    await howdah.advance(timedelta(hours=8))
    await howdah.work()
    return await howdah.result(run_id)

async def test_asynchronous(howdah):
    assert (await run(howdah, "ann")).output == "Ann"

def test_synchronous(howdah):
    import asyncio
    result = asyncio.run(run(howdah, "ben"))
    assert result.output == "Ben"
    assert result.attempt == 3

@pytest.mark.parametrize("_", range(2))
async def test_each_has_a_database_of_its_own(howdah, howdah_database_url, _):
    import psycopg
    from tasks import greet
    await howdah.start(greet, "ann")
    with psycopg.connect(howdah_database_url) as connection:
        assert connection.execute("select count(*) from CELL.run").fetchone() == (1,)
"""

RESOURCE = """
import pytest

@pytest.fixture
def howdah_app():
    from tasks import app
    return app

@pytest.fixture
def howdah_resources():
    return {dict: {"by": "howdah"}}

async def test_what_a_workflow_asks_for(howdah):
    from test_tasks import run
    assert (await run(howdah, "resource")).output == "Resource, howdah"
"""

# Plugins that only make each of these test runs begin later.
UNNEEDED = ("cacheprovider", "hypothesispytest", "xdist", "anyio", "pytest_postgresql")

INI = "[pytest]\nasyncio_mode = auto\n"


def run_pytest(folder: Path, database_url: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "PYTEST_"))}
    if database_url is not None:
        environment["DATABASE_URL"] = database_url
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(f"-pno:{name}" for name in UNNEEDED), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def repository(folder: Path, cell: str, ini: str, **tests: str) -> Path:
    """A user's own."""
    files = {"tasks.py": TASKS, "pytest.ini": ini, **{f"{name}.py": text for name, text in tests.items()}}
    for name, text in files.items():
        (folder / name).write_text(text.replace("CELL", cell))
    return folder


@pytest.mark.parametrize("cell", ["howdah", "west"])
def test_its_fixtures_work_on_the_server_of_database_url_and_leave_it_as_it_was(
    empty_database_url: str, tmp_path: Path, cell: str
) -> None:
    folder = repository(tmp_path, cell, f"{INI}howdah_app = tasks:app\n", test_tasks=TESTS, test_resource=RESOURCE)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        before = connection.execute("select datname from pg_database order by 1").fetchall()
        done = run_pytest(folder, empty_database_url)
        assert "5 passed" in done.stdout, done.stdout + done.stderr
        assert connection.execute("select datname from pg_database order by 1").fetchall() == before
        assert connection.execute("select to_regnamespace(%s)", [cell]).fetchone() == (None,), "it is left alone"


def test_without_database_url_they_bring_a_server_that_ends_with_them(tmp_path: Path) -> None:
    folder = repository(tmp_path, "howdah", f"{INI}howdah_app = tasks:app\n", test_tasks=TESTS)
    (folder / "test_server.py").write_text(
        "def test_server(howdah_database_url):\n"
        "    from psycopg.conninfo import conninfo_to_dict\n"
        "    print('PORT', conninfo_to_dict(howdah_database_url)['port'])\n"
    )
    done = run_pytest(folder, None, "-s")
    assert "5 passed" in done.stdout, done.stdout + done.stderr
    port = done.stdout.partition("PORT ")[2].split()[0]
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "which app? Say `howdah_app = package.module:name` in pytest's configuration, or give a fixture"),
        ("howdah_app = nowhere:app", "there is no module 'nowhere'"),
    ],
)
def test_an_app_that_is_not_there_is_told(empty_database_url: str, tmp_path: Path, line: str, message: str) -> None:
    folder = repository(tmp_path, "howdah", f"{INI}{line}\n", test_tasks=TESTS)
    done = run_pytest(folder, empty_database_url, "-k", "asynchronous")
    assert message in done.stdout, done.stdout + done.stderr


def test_where_it_is_not_used_it_costs_nothing() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import howdah.app.pytest_plugin;"
        " print(sorted(m for m in set(sys.modules) - before if not m.startswith('_')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['howdah', 'howdah.app', 'howdah.app.pytest_plugin']"
