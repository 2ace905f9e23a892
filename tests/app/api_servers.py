"""The API over real HTTP: in a thread of the test where that is enough, in a process of its own where it is to die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import IO, Any

import httpx
import uvicorn

from howdah.app.api.application import create_app
from howdah.app.settings import Settings

# Fails a test that waits for what never comes.
PATIENCE = 30.0

_PROGRAM = """
import sys
from howdah.app.api.serve import serve
from howdah.app.settings import load_settings
serve(load_settings(), sys.argv[1], 0, fd=int(sys.argv[2]))
"""


@dataclass(slots=True)
class ApiProcess:
    """An API process; requests are answered from the moment it exists, as its socket listens already."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def api_process(
    database_url: str, port: int = 0, environment: dict[str, str] | None = None, log: IO[bytes] | None = None
) -> Iterator[ApiProcess]:
    """An API process on a port of its own, or on the one of a process that is gone; `environment`: its settings.

    What it writes goes to `log`, or where this process writes.
    """
    with listening_socket(port) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, database_url, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env={**os.environ, **(environment or {})},
            stdout=log,
            stderr=log,
        )
        url = socket_url(listener)
    # Only the process holds the socket now: when it dies, connections are refused.
    try:
        yield ApiProcess(url, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE)


@contextmanager
def api_thread(database_url: str, **settings: Any) -> Iterator[str]:
    """URL of an API that runs in this process."""
    app = create_app(Settings(**settings), database_url)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", timeout_graceful_shutdown=1, log_level="error"))
    with listening_socket() as listener:
        thread = Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield socket_url(listener)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def client_for(url: str, key: str | None, tenant: str | None = None) -> httpx.Client:
    """A client that sends `key`; for an administrator's, `tenant` is whom it acts for."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if tenant is not None:
        headers["Howdah-Tenant"] = tenant
    return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE)


def listening_socket(port: int = 0) -> socket.socket:
    """A socket that listens on a free port of loopback, or on `port`."""
    listener = socket.socket()
    # A port of which connections were just cut off can be had again.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(100)
    return listener


def socket_url(listener: socket.socket) -> str:
    """The address of what a listening socket is given to."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
