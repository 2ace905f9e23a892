"""`howdah up`: database, API and worker, left running until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from rich.console import Console
from rich.text import Text

from howdah.app.database import Database, provide_database
from howdah.app.keys import KeyRing, issue_key
from howdah.app.processes import ProcessDiedError, Processes, free_port, wait_until_ready
from howdah.app.settings import Settings
from howdah.sql.pool import cell_conninfo, make_pool

LOOK_SECONDS = 0.5


async def up(console: Console, settings: Settings, app_path: str) -> None:
    """Bring everything up, print how to reach it, and stay until SIGINT or SIGTERM.

    Raises
    ------
    ProcessDiedError
        If the API or the worker ends by itself.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    database = await asyncio.to_thread(provide_database, settings)
    try:
        port = settings.port if "HOWDAH_PORT" in os.environ else free_port(settings.port)
        base_url = f"http://{settings.host}:{port}"
        with Processes(Path(settings.home) / "logs", {"DATABASE_URL": database.url}) as processes:
            api = processes.start("api", "api", "--port", str(port))
            processes.start("worker", "worker", "--app", app_path)
            await wait_until_ready(api, base_url)
            _show(console, settings, database, base_url, await _key(settings, database))
            while not stop.is_set():
                if dead := processes.dead():
                    raise ProcessDiedError(f"{dead[0].name} ended with {dead[0].popen.returncode}:\n{dead[0].tail()}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await stop.wait()
            console.print("\nstopping …")
    finally:
        database.stop()
    console.print("stopped; your data is kept, `make up` finds it again")


async def _key(settings: Settings, database: Database) -> str:
    """The key of the last time, if it still opens something; else a new one."""
    path = Path(settings.home) / "key"
    async with make_pool(cell_conninfo(database.url, settings.cell)) as pool:
        if path.exists():
            text = path.read_text().strip()
            if await KeyRing(pool).owner(text) is not None:
                return text
        async with pool.connection() as connection:
            text = await issue_key(connection, "default", "howdah up")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return text


def _show(console: Console, settings: Settings, database: Database, base_url: str, key: str) -> None:
    header = f"-H 'Authorization: Bearer {key}'"
    cell = settings.cell
    lines = (
        ("page", f"{base_url}/  (start runs and watch them; sign in with the key)"),
        ("API", f"{base_url}  (documentation: {base_url}/schema)"),
        ("key", key),
        ("send a file", f"curl -s {header} --data-binary @README.md '{base_url}/v1/files?filename=README.md'"),
        ("see the queues", f"curl -s {header} {base_url}/v1/queues"),
        (
            "run a workflow",
            f"curl -s {header} -H 'Content-Type: application/json' -d"
            f' \'{{"task": "examples.hello", "args": {{"name": "world"}}}}\' \'{base_url}/v1/runs\'',
        ),
        ("psql", f"PGOPTIONS='-c search_path={cell},ops,public' {database.psql}"),
    )
    for name, text in lines:
        console.print(Text(f"{name:>15}  ", style="bold"), end="")
        console.print(Text(text), soft_wrap=True)
    console.print("\nrunning; Ctrl-C stops everything", style="dim")
