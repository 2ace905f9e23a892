"""The server that is tormented: crashed in the middle of everything, and up again from its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from howdah.app import embedded
from tests.bench.database import server

START_SECONDS = 60  # for the recovery of what the log has: a few hundred megabytes at most


@dataclass(frozen=True, slots=True)
class Server:
    """`ours` is None for a server that DATABASE_URL names: that one is not restarted."""

    url: str
    ours: embedded.EmbeddedPostgres | None = None

    def crash(self) -> None:
        """Restart it as after a power cut: no backend ends its transaction, no page is written, the log is replayed."""
        assert self.ours is not None, "only an embedded server may be restarted"
        folder = self.ours.folder
        command = [self.ours.psql.with_name("pg_ctl"), "-D", folder, "restart", "-m", "immediate"]
        subprocess.run(
            [*map(str, command), "-w", "-t", str(START_SECONDS), "-l", str(folder / "log")],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=embedded.SERVER_USER if os.geteuid() == 0 else None,
            cwd="/",
            start_new_session=True,
        )


@contextmanager
def tormented_server() -> Iterator[Server]:
    """The server that DATABASE_URL names, or an embedded one, durable as in production, removed afterwards."""
    if os.environ.get("DATABASE_URL"):
        with server() as url:
            yield Server(url)
        return
    # So that a stopped program still removes what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="howdah-chaos-server-"))
    try:
        started = embedded.start(folder)
        yield Server(started.url, started)
    finally:
        embedded.remove(folder)


@contextmanager
def own_database(server: Server) -> Iterator[str]:
    """URL of a new, empty database; dropped afterwards, over a connection that no crash has cut."""
    name = f"howdah_chaos_{os.getpid()}"
    identifier = sql.Identifier(name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0").format(identifier))
    try:
        yield urlsplit(server.url)._replace(path=f"/{name}").geturl()
    finally:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(identifier))
