"""Child processes of `howdah up`, `demo` and `review`: started, watched, killed on purpose, and stopped in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

# An API that is not ready by then has an error to show.
READY_SECONDS = 20.0
# What does not stop when asked is killed after this; the engine forgives it.
STOP_SECONDS = 15.0


class ProcessDiedError(RuntimeError):
    """A child ended by itself; the message has the end of its log."""


@dataclass(slots=True)
class Process:
    """One child. Its output is in `log`."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """SIGKILL: no goodbye, as when a machine is gone."""
        self.popen.kill()
        self.popen.wait()

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


class Processes:
    """The children of one command. Leaving the context stops them all."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._children: list[Process] = []

    def __enter__(self) -> Processes:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, *arguments: str) -> Process:
        """Start ``howdah <arguments>`` under a name."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "howdah.app.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                # Ctrl-C is for the parent, which stops its children in order.
                start_new_session=True,
            )
        child = Process(name, popen, log)
        self._children.append(child)
        return child

    def dead(self) -> list[Process]:
        """Children that ended without being asked."""
        return [child for child in self._children if not child.alive and child.popen.returncode != -signal.SIGKILL]

    def stop(self) -> None:
        """SIGTERM to all, youngest first; SIGKILL to what stays."""
        alive = [child for child in reversed(self._children) if child.alive]
        for child in alive:
            child.popen.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in alive:
            try:
                child.popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        self._children.clear()


async def wait_until_ready(process: Process, base_url: str) -> None:
    """Wait until an API answers that it is ready.

    Raises
    ------
    ProcessDiedError
        If it ends, or is not ready within 20 s.
    """
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(timeout=2.0) as client:
        while time.monotonic() < deadline:
            if not process.alive:
                raise ProcessDiedError(f"{process.name} ended with {process.popen.returncode}:\n{process.tail()}")
            try:
                if (await client.get(f"{base_url}/health/ready")).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.05)
    raise ProcessDiedError(f"{process.name} is not ready after {READY_SECONDS:.0f} s:\n{process.tail()}")


def free_port(preferred: int = 0) -> int:
    """`preferred` if nobody listens there, else any free port on loopback."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError("no free port on 127.0.0.1")
