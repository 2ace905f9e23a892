"""Through deploy/pgbouncer.ini, with fewer connections than clients: the API, workers and authors' apps work."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import httpx
import psycopg
import pytest
from httpx_sse import EventSource
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import text

from howdah.app.composition import READ_SECONDS, make_read_engine
from howdah.app.processes import Process, free_port, wait_until_ready
from howdah.sql.pool import cell_conninfo
from tests.app.api_servers import PATIENCE, client_for
from tests.app.conftest import issue
from tests.deploy.images import DEPLOY

ROOT = Path(__file__).parents[2]
POOL_SIZE = 5
RUNS = 100

pytestmark = pytest.mark.needs("pgbouncer")

Start = Callable[..., Process]


@pytest.fixture
def pooler_url(db: psycopg.Connection) -> Iterator[str]:
    """URL of a PgBouncer before this test's database; the role has no search_path yet."""
    info = db.info
    port = free_port()
    # Not pytest's own temporary folder, which another user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="howdah-pgbouncer-"))
    folder.chmod(0o755)
    config = ConfigParser(interpolation=None)
    config.read(DEPLOY / "pgbouncer.ini")
    config["databases"] = {info.dbname: f"host={info.host} port={info.port} dbname={info.dbname}"}
    config["pgbouncer"].update(
        {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(folder / "userlist.txt"),
            "default_pool_size": str(POOL_SIZE),
        }
    )
    (folder / "userlist.txt").write_text(f'"{info.user}" "{info.password}"\n')
    with (folder / "pgbouncer.ini").open("w") as file:
        config.write(file)
    with (folder / "log").open("wb") as log:
        # It refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        process = subprocess.Popen(["pgbouncer", str(folder / "pgbouncer.ini")], stderr=log, stdout=log, user=user)
    try:
        deadline = time.monotonic() + PATIENCE
        while b"process up" not in (folder / "log").read_bytes():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield f"postgresql://{info.user}@127.0.0.1:{port}/{info.dbname}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture
def pooled_url(pooler_url: str, db: psycopg.Connection) -> str:
    """The same, after the one statement that deploy/pgbouncer.ini asks for."""
    given = conninfo_to_dict(pooler_url)
    db.execute(f'alter role {given["user"]} in database "{given["dbname"]}" set search_path = howdah, public')
    return pooler_url


@pytest.fixture
def start(pooler_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start `howdah` through the pooler; what is left is killed at the end."""
    started: list[Process] = []
    environment = os.environ | {
        "DATABASE_URL": pooler_url,
        "HOWDAH_POOLED": "true",
        "HOWDAH_HOME": str(tmp_path),
        # So seldom that nothing here is owed to them.
        "HOWDAH_HEARTBEAT_SECONDS": "600",
        "HOWDAH_RESCUE_SECONDS": "3000",
    }

    def start(*arguments: str) -> Process:
        log = tmp_path / f"{len(started)}-{arguments[0]}.log"
        with log.open("wb") as output:
            command = [sys.executable, "-m", "howdah.app.cli", *arguments]
            popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        started.append(Process(arguments[0], popen, log))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
async def crew(pooled_url: str, start: Start) -> tuple[str, list[Process]]:
    """URL of an API process, and it with two worker processes."""
    url = f"http://127.0.0.1:{free_port()}"
    api = start("api", "--port", url.rpartition(":")[2])
    workers = [start("worker", "--app", "tests.deploy.pooled_app:app") for _ in range(2)]
    await wait_until_ready(api, url)
    for worker in workers:
        async with asyncio.timeout(PATIENCE):
            while "worker_started" not in worker.log.read_text():
                assert worker.alive, worker.tail()
                await asyncio.sleep(0.05)
    return url, [api, *workers]


@pytest.fixture
def acme(crew: tuple[str, list[Process]], db: psycopg.Connection) -> Iterator[httpx.Client]:
    db.execute("select create_tenant('acme')")
    with client_for(crew[0], issue(db, "acme")) as client:
        yield client


def create(client: httpx.Client, task: str, **more: object) -> int:
    created = client.post("/v1/runs", json={"task": task, "args": {}, **more})
    assert created.status_code in (200, 201), created.text
    return int(created.json()["id"])


def finished(client: httpx.Client, run: int) -> dict[str, object]:
    answer: dict[str, object] = client.get(f"/v1/runs/{run}", params={"wait": 30}).json()
    return answer


async def test_many_runs_end_once_each_over_few_connections(
    crew: tuple[str, list[Process]], acme: httpx.Client, db: psycopg.Connection
) -> None:
    url, processes = crew
    async with httpx.AsyncClient(base_url=url, headers=acme.headers, timeout=PATIENCE) as client:

        async def run_one(number: int) -> tuple[str, object]:
            key = {"Idempotency-Key": f"run-{number}"}
            body = {"task": "pooled.steps", "args": {}}
            # Twice at once: the key's guard must hold between two sessions.
            first, again = await asyncio.gather(*(client.post("/v1/runs", json=body, headers=key) for _ in range(2)))
            assert first.json()["id"] == again.json()["id"]
            run = (await client.get(f"/v1/runs/{first.json()['id']}", params={"wait": 30})).json()
            return run["state"], run["output"]

        ended = await asyncio.gather(*(run_one(number) for number in range(RUNS)))
        assert (await client.get("/v1/runs", params={"limit": 10})).status_code == httpx.codes.OK
    assert ended == [("succeeded", ["first", "second"])] * RUNS
    assert db.execute("select count(*), max(attempt) from run_history where queue <> 'howdah'").fetchone() == (RUNS, 1)
    through = db.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and client_port is not null"
        " and pid <> pg_backend_pid() and application_name like 'howdah-%'"
    ).fetchone()
    assert through is not None
    assert 0 < through[0] <= POOL_SIZE
    for process in processes:
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(PATIENCE) == 0, process.tail()
        for trouble in ("prepared statement", "error", "failed", "Traceback"):
            assert trouble not in process.log.read_text(), process.tail()


def test_a_running_run_is_cancelled_without_a_hint(acme: httpx.Client) -> None:
    run = create(acme, "pooled.endless")
    deadline = time.monotonic() + PATIENCE
    while acme.get(f"/v1/runs/{run}").json()["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert acme.post(f"/v1/runs/{run}/cancel").json()["status"] == "requested"
    assert finished(acme, run)["state"] == "cancelled"


def test_a_stream_that_is_open_gets_what_comes(acme: httpx.Client) -> None:
    assert acme.post("/v1/sessions", json={"id": "lobby"}).status_code == 201
    with acme.stream("GET", "/v1/sessions/lobby/events", headers={"Accept": "text/event-stream"}) as response:
        events = EventSource(response).iter_sse()
        run = create(acme, "pooled.steps", session="lobby")
        types = []
        for event in events:
            if event.data:
                types.append(event.json()["type"])
            if "in.second" in types:
                break
    assert [found for found in types if found.startswith("in.")] == ["in.first", "in.second"]
    assert finished(acme, run)["state"] == "succeeded"


def test_nobody_listens_in_a_session_that_is_lent(acme: httpx.Client, pooled_url: str) -> None:
    assert finished(acme, create(acme, "pooled.steps"))["state"] == "succeeded"
    held = [psycopg.connect(pooled_url) for _ in range(POOL_SIZE)]
    try:
        # In open transactions: each holds a session of its own.
        listening = [c.execute("select array(select pg_listening_channels())").fetchone() for c in held]
    finally:
        for connection in held:
            connection.close()
    assert listening == [([],)] * POOL_SIZE


async def test_a_read_is_limited_and_leaves_no_limit_behind(pooled_url: str) -> None:
    conninfo = cell_conninfo(pooled_url, pooled=True)
    query = "select current_setting('statement_timeout'), current_setting('transaction_read_only')"
    engine = make_read_engine(conninfo, 2)
    try:
        for _ in range(10):
            async with engine.connect() as reading:
                assert (await reading.execute(text(query))).one() == (f"{READ_SECONDS}s", "on")
    finally:
        await engine.dispose()
    with psycopg.connect(pooled_url) as other:
        assert other.execute(query).fetchone() == ("0", "off")


def test_an_author_s_app_enqueues_through_it(pooled_url: str, db: psycopg.Connection) -> None:
    program = (
        "import asyncio\n"
        "from tests.deploy.pooled_app import app, steps\n"
        "async def main():\n"
        "    async with app.open_async():\n"
        f"        await asyncio.gather(*(steps.enqueue() for _ in range({RUNS})))\n"
        "asyncio.run(main())\n"
    )
    environment = os.environ | {"DATABASE_URL": pooled_url, "HOWDAH_POOLED": "true"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, timeout=PATIENCE)
    assert db.execute("select count(*) from run").fetchone() == (RUNS,)


@pytest.mark.parametrize("program", ["api", "worker"])
def test_a_role_without_the_search_path_is_refused_with_the_statement_to_type(start: Start, program: str) -> None:
    process = start(program)
    assert process.popen.wait(PATIENCE) == 1
    assert "set search_path = howdah, public" in " ".join(process.log.read_text().split())


def test_a_migration_is_refused_before_it_writes(start: Start) -> None:
    process = start("migrate")
    assert process.popen.wait(PATIENCE) == 1
    assert "HOWDAH_POOLED=false" in process.log.read_text()
