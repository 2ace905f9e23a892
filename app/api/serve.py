"""Running the API: uvicorn on uvloop and httptools, stopped in order by SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from types import FrameType

import uvicorn
from litestar import Litestar

from howdah.app.api.application import create_app
from howdah.app.collector import relax_collector
from howdah.app.composition import Resources
from howdah.app.settings import Settings

# Longer than usual load balancers keep an idle connection, so that they close it, not we.
KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048
# A peer that has left bytes untaken for so long is gone, or might as well be: the kernel ends the connection, and what
# it held is free. Clients that merely read slowly are let go before, with a word: see `Rounds`.
UNTAKEN_MILLISECONDS = 60_000


class Server(uvicorn.Server):
    """A uvicorn server that lets waiting requests and streams go as soon as it is told to stop."""

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self.app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        resources: Resources | None = self.app.state.get("resources")
        if resources is not None and self._loop is not None:
            # A signal may interrupt anything: what wakes tasks runs in the loop's next turn.
            self._loop.call_soon_threadsafe(resources.begin_shutdown)


def make_server(settings: Settings, database_url: str, port: int | None = None) -> Server:
    """A server that is ready to run. `port` 0 is any free one, None the settings'."""
    app = create_app(settings, database_url)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port if port is None else port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
    )
    return Server(config, app)


def serve(settings: Settings, database_url: str, port: int | None = None, *, fd: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT: then nothing new is accepted, waiting requests are answered, streams end.

    `fd` is a socket that listens already, and goes before `port`.

    Raises
    ------
    SystemExit
        With status 3 if it cannot start, such as on a database without the schema; the log tells why.
    """
    server = make_server(settings, database_url, port)
    # uvicorn's own `fd` takes every socket for a local one, without TCP_NODELAY: an answer's second part then waits up
    # to 40 ms for the client's word that it has the first.
    listening = server.config.bind_socket() if fd is None else socket.socket(fileno=fd)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MILLISECONDS)
    # uvicorn has a handler of its own while it runs. A signal that comes before is not to be lost; uvicorn raises one
    # again once it has stopped for it, when that has done its work.
    signal.signal(signal.SIGTERM, server.handle_exit)
    relax_collector()
    with contextlib.suppress(KeyboardInterrupt):
        server.run([listening])
    if not server.started:
        raise SystemExit(3)
