"""The image's processes without the image: its environment, the compose file's, a folder that nobody writes to."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from howdah.app.processes import Process, free_port, wait_until_ready
from tests.deploy.compose_file import read_compose, service_environment
from tests.deploy.conftest import PASSWORD, ConfiguredServer
from tests.deploy.images import healthcheck_command, image_environment

HOWDAH = str(Path(sys.executable).parent / "howdah")
# Fails a test that waits for what never comes.
PATIENCE = 60
EXECUTABLES = f"{Path(sys.executable).parent}:/usr/bin:/bin"


@dataclass(slots=True)
class Deployment:
    """Starts processes as the compose file does, and remembers them."""

    folder: Path
    home: Path
    logs: Path
    environment: dict[str, str]
    started: list[Process] = field(default_factory=list)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            check=False,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def start(self, service: str) -> Process:
        log = self.logs / service
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [HOWDAH, *read_compose()["services"][service]["command"]],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process = Process(service, popen, log)
        self.started.append(process)
        return process


@pytest.fixture
def deployment(configured_server: ConfiguredServer, tmp_path: Path) -> Iterator[Deployment]:
    environment = image_environment() | service_environment("api", {"POSTGRES_PASSWORD": PASSWORD})
    at_database = environment["DATABASE_URL"].replace("@database:5432/", f"@127.0.0.1:{configured_server.port}/")
    folder, home, logs = (tmp_path / name for name in ("folder", "home", "logs"))
    for path in (folder, home, logs):
        path.mkdir()
    for path in (folder, home):
        path.chmod(0o555)
    environment |= {
        "PATH": EXECUTABLES,
        "DATABASE_URL": at_database,
        "HOWDAH_HOME": str(home),
        "HOWDAH_HOST": "127.0.0.1",
        "HOWDAH_PORT": str(free_port()),
    }
    deployed = Deployment(folder, home, logs, environment)
    yield deployed
    for process in deployed.started:
        process.kill()


async def test_a_run_goes_through_processes_that_know_only_their_database(deployment: Deployment) -> None:
    url = f"http://127.0.0.1:{deployment.environment['HOWDAH_PORT']}"
    health = healthcheck_command()
    # At every deployment the migration runs again, and finds nothing to do.
    for _ in range(2):
        migrated = deployment.run(HOWDAH, "migrate")
        assert migrated.returncode == 0, migrated.stderr
    issued = deployment.run(HOWDAH, "key", "--tenant", "acme")
    assert issued.returncode == 0, issued.stderr
    assert deployment.run(*health).returncode != 0

    api, worker = deployment.start("api"), deployment.start("worker")
    await wait_until_ready(api, url)
    assert deployment.run(*health).returncode == 0
    await _announced(worker)
    headers = {"Authorization": f"Bearer {issued.stdout.strip()}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE) as client:
        created = await client.post("/v1/runs", json={"task": "examples.hello", "args": {"name": "Ada"}})
        assert created.status_code == 201, created.text
        run = (await client.get(created.headers["location"], params={"wait": 30})).json()
    assert (run["state"], run["output"]) == ("succeeded", "HELLO, ADA!")

    for process in (worker, api):
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(PATIENCE) == 0, process.tail()
    assert deployment.run(*health).returncode != 0
    assert list(deployment.folder.iterdir()) == []
    assert list(deployment.home.iterdir()) == []


async def _announced(worker: Process) -> None:
    """Wait until a worker has said which tasks it runs: the API refuses others."""
    deadline = time.monotonic() + PATIENCE
    while "worker_started" not in worker.log.read_text():
        assert worker.alive, worker.tail()
        assert time.monotonic() < deadline, worker.tail()
        await asyncio.sleep(0.05)


def test_a_wrong_password_is_refused_in_so_many_words(deployment: Deployment) -> None:
    deployment.environment["PGPASSWORD"] = "wrong"
    refused = deployment.run(HOWDAH, "migrate")
    assert refused.returncode != 0
    assert "password authentication failed" in refused.stderr
