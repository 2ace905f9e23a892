"""The README keeps its word: its paths exist, its commands run, its code works in a repository of one's own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from howdah.app.keys import issue_key
from howdah.app.processes import Process, Processes, free_port, wait_until_ready
from howdah.sql.pool import Connection
from tests.sql.engine import checkpoint, running, write
from tests.sql.test_ops_waits import APPROVAL, rest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
INSTALL_SECONDS = 300


def blocks(language: str, heading: str) -> list[str]:
    """Fenced blocks of a language in the section under a heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def files(heading: str) -> dict[str, str]:
    """The files that the section under a heading shows, each block under its name."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^`([\w.]+)`:\n\n```[a-z]+\n(.*?)```", section, re.DOTALL | re.MULTILINE))


@contextmanager
def processes_on(database_url: str, folder: Path) -> Iterator[Processes]:
    with Processes(folder / "logs", {"DATABASE_URL": database_url, "HOWDAH_HOME": str(folder)}) as processes:
        yield processes


async def api_with_key(processes: Processes, connection: Connection) -> tuple[str, str, Process]:
    url = f"http://127.0.0.1:{free_port()}"
    api = processes.start("api", "api", "--port", url.rpartition(":")[2])
    await wait_until_ready(api, url)
    return url, await issue_key(connection, "default", "readme"), api


@pytest.fixture
def migrated_url(database_url: str, db: psycopg.Connection) -> str:
    """This test's database, marked as migrated: its schema came from sql/."""
    from howdah.app.migrate import newest_revision

    db.execute("create table howdah.alembic_version (version_num text primary key)")
    db.execute("insert into howdah.alembic_version values (%s)", [newest_revision()])
    return database_url


def test_every_place_that_it_names_exists() -> None:
    table = README.split("\n## Where does X happen?\n", 1)[1].split("\n## ", 1)[0]
    places = re.findall(r"`([a-z]+/[\w./]*)`", table)
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_every_make_target_and_subcommand_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)|^\$ make ([a-z]+)", README, re.MULTILINE)) <= {
        pair for name in targets for pair in ((name, ""), ("", name))
    }
    from howdah.app.cli import cli

    assert set(re.findall(r"`howdah ([a-z]+)", README)) <= set(cli.commands)


@pytest.mark.needs("curl")
async def test_its_curl_commands_do_what_it_says(migrated_url: str, connection: Connection, tmp_path: Path) -> None:
    export, *commands = blocks("sh", "With curl")
    assert "HOWDAH_URL" in export
    with processes_on(migrated_url, tmp_path) as processes:
        processes.start("worker", "worker")
        url, key, _ = await api_with_key(processes, connection)
        environment = {**os.environ, "HOWDAH_URL": url, "HOWDAH_KEY": key}
        await registered(connection, "examples.hello")
        answers = []
        for command in commands:
            done = await asyncio.to_thread(
                subprocess.run,
                ["bash", "-euo", "pipefail", "-c", command],
                env=environment,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            answers.append(documents(done.stdout))
    (created,), (finished, steps, events), (_, document, found), (problem,) = answers
    assert created["task"] == "examples.hello"
    assert (finished["id"], finished["state"], finished["output"]) == (created["id"], "succeeded", "HELLO, WORLD!")
    assert [step["step"] for step in steps["items"]] == ["greet", "shout"]
    assert [event["type"] for event in events["events"]] == ["howdah.progress"] * 2 + ["howdah.run.succeeded"]
    assert document["chunks"] > 3
    assert len(found["results"]) == 3
    assert problem["status"] == 404
    assert "examples.hello" in problem["detail"]


@pytest.mark.needs("curl")
async def test_its_words_about_a_run_that_waits_hold(migrated_url: str, connection: Connection, tmp_path: Path) -> None:
    (commands,) = blocks("sh", "Watching a run")
    (run,) = await running(connection)
    await write(connection, checkpoint(run, "open"))
    await rest(connection, run, APPROVAL)
    with processes_on(migrated_url, tmp_path) as processes:
        url, key, _ = await api_with_key(processes, connection)
        places = {"HOWDAH_URL": url, "HOWDAH_KEY": key, "RUN": str(run.id), "DATABASE_URL": migrated_url}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-euo", "pipefail", "-c", commands],
            env={**os.environ, **places, "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    shown, _, answers = done.stdout.partition("{")
    assert "waits for the signal approval (approve or reject)" in shown
    assert f"sent 'approval' to run {run.id}" in shown
    signal, forked = documents("{" + answers)
    assert signal == {"id": str(run.id), "name": "approval", "status": "sent"}
    assert forked["state"] == "queued"


async def registered(connection: Connection, task: str) -> None:
    """Wait until a worker has said that it runs this task."""
    for _ in range(400):
        row = await (await connection.execute("select exists (select from task where name = %s)", [task])).fetchone()
        if row and row[0]:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"no worker registered {task} within 20 s")


def documents(text: str) -> list[dict[str, object]]:
    """JSON documents that follow one another."""
    decoder = json.JSONDecoder()
    found = []
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


@pytest.mark.long
async def test_its_workflow_runs_and_is_tested_in_a_repository_of_ones_own(
    migrated_url: str, connection: Connection, tmp_path: Path
) -> None:
    # From a copy: what an earlier build left behind must not be in the wheel.
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "build", "report"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    await asyncio.to_thread(subprocess.run, build, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    (wheel,) = tmp_path.glob("howdah-*.whl")
    own = tmp_path / "theirs"
    own.mkdir()
    install, worker = blocks("sh", "Writing a workflow")
    tasks, sender = blocks("python", "Writing a workflow")
    (own / "tasks.py").write_text(tasks)
    (own / "send.py").write_text(sender)
    for name, text in files("Testing a workflow").items():
        (own / name).write_text(text)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DATABASE_URL": migrated_url}
    # How packages are found is this machine's affair.
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
    # Of all that it installs, a few modules are imported here.
    environment["PIP_COMPILE"] = "0"
    script = ["bash", "-euo", "pipefail", "-c", install]
    await asyncio.to_thread(
        subprocess.run,
        script,
        env={**environment, "HOWDAH_WHEEL": str(wheel)},
        cwd=own,
        check=True,
        timeout=INSTALL_SECONDS,
    )
    running, log = start(worker, environment, own)
    try:
        await registered(connection, "invoice.settle")
        sent = await asyncio.to_thread(
            subprocess.run, [".venv/bin/python", "send.py"], env=environment, cwd=own, capture_output=True, check=True
        )
        rows = await history(connection, 2)
    finally:
        running.terminate()
        assert running.wait(20) == 0
    assert rows["invoice.settle"] == (int(sent.stdout), "succeeded", {"number": "acme-1", "total": 1000.0})
    assert rows["reminder.send"][1] == "succeeded"
    assert "dear acme" in log.read_text()
    tested = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-euo", "pipefail", "-c", "".join(blocks("sh", "Testing a workflow"))],
        env=environment,
        cwd=own,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    assert "4 passed" in tested.stdout, tested.stdout + tested.stderr


def start(command: str, environment: dict[str, str], folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A command of the README in the background, and its log."""
    log = folder / "output.log"
    with log.open("wb") as output:
        return subprocess.Popen(command.split(), env=environment, cwd=folder, stdout=output, stderr=output), log


async def history(connection: Connection, count: int) -> dict[str, tuple[int, str, object]]:
    """Finished runs by task, once there are so many."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows = await (
            await connection.execute("select task, id, state, output from run_history where queue <> 'howdah'")
        ).fetchall()
        if len(rows) >= count:
            return {task: (run, state, output) for task, run, state, output in rows}
        await asyncio.sleep(0.05)
    return pytest.fail("the runs did not finish within 20 s")


def test_its_sql_for_operators_works_as_printed(db: psycopg.Connection, database_url: str) -> None:
    row = db.execute("select run_id from enqueue_run('default', 'examples.hello', '{\"name\": \"a\"}')").fetchone()
    assert row is not None
    db.execute("select finish_runs(array[%s::bigint], '{failed}', null, array['{\"type\": \"Oops\"}'::jsonb])", row)
    (script,) = blocks("sql", "SQL for operators")
    statements = [part for part in re.sub(r"--[^\n]*", "", script).split(";") if part.strip()]
    assert len(statements) == 19
    with psycopg.connect(database_url, autocommit=True, options="-c search_path=howdah,ops,public") as operator:
        answers = [operator.execute(part.replace(":run", str(row[0])).encode()).fetchall() for part in statements]
    queues, failures, requeued, others, why, steps, waits, sent, forked, _, *answers = answers
    paused, resumed, limit, drained, schedules, enqueued, cancelled, created, appended = answers
    assert schedules == []
    assert queues[0][0] == "default"
    assert failures[0][:3] == (row[0], "examples.hello", "Oops")
    assert requeued == [(row[0], "requeued")]
    assert others == [(0, False)]
    assert why == [(f"run {row[0]} is queued, and no live worker serves its queue default",)]
    assert steps == []
    assert waits == []
    assert sent == [(row[0], "sent")]
    assert forked[0][0] > row[0]
    assert (paused, resumed) == ([("default", True)], [("default", False)])
    assert limit[0][:2] == ("default", 100)
    assert drained == [(7, "unknown")]
    assert enqueued[0][1] == "created"
    assert cancelled == [(row[0], "cancelled")]
    assert (created, appended) == ([(True,)], [(1, "created")])
