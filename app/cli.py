"""The `howdah` command."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import psycopg
import structlog
import uvloop
from rich.console import Console
from rich.table import Table
from rich.text import Text

from howdah.app.collector import relax_collector
from howdah.app.database import NoDatabaseError, data_folder, find_database, provide_database
from howdah.app.processes import ProcessDiedError
from howdah.app.run_commands import run
from howdah.app.settings import SettingError, Settings, describe_settings, load_settings
from howdah.sql.errors import HowdahError

DEMO_WIDTH = 150

console = Console(highlight=False, width=None if sys.stdout.isatty() else DEMO_WIDTH)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="howdah")
@click.pass_context
def cli(context: click.Context) -> None:
    """Howdah: an AI-workflow backend that needs nothing but PostgreSQL."""
    settings = load_settings()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(settings.log_level))
    context.obj = settings


cli.add_command(run)


@cli.command()
@click.option("--port", type=int, default=None, help="port to listen on  [default: HOWDAH_PORT]")
@click.pass_obj
def api(settings: Settings, port: int | None) -> None:
    """Serve the API. Any number of these can run; each serves every client."""
    from howdah.app.api.serve import serve
    from howdah.app.composition import check_fit

    database_url = find_database(settings)
    # Before the server: it would wrap a refusal in tracebacks.
    asyncio.run(check_fit(settings, database_url))
    serve(settings, database_url, settings.port if port is None else port)


@cli.command()
@click.option("--app", "app_path", default=None, help="the app whose tasks it runs, as package.module:name")
@click.option("--queues", default="", help="only these, comma-separated  [default: those of the app's tasks]")
@click.pass_obj
def worker(settings: Settings, app_path: str | None, queues: str) -> None:
    """Run tasks and workflows. SIGTERM lets them finish, then hands them back."""
    from howdah.app.worker_process import DEFAULT_APP, load_app, run_worker

    database_url = find_database(settings)
    # The app of tasks reads it when it is imported, to send runs of its own.
    os.environ["DATABASE_URL"] = database_url
    app = load_app(app_path or DEFAULT_APP)
    wanted = tuple(filter(None, (queue.strip() for queue in queues.split(","))))
    _run(run_worker(settings, database_url, app, wanted))


@cli.command()
@click.option("--app", "app_path", default=None, help="the app whose tasks the worker runs, as package.module:name")
@click.pass_obj
def up(settings: Settings, app_path: str | None) -> None:
    """Start database, API and worker, and leave them running until Ctrl-C."""
    from howdah.app.up import up as bring_up
    from howdah.app.worker_process import DEFAULT_APP

    _run(bring_up(console, settings, app_path or DEFAULT_APP))


@cli.command()
@click.option("--ask", default=None, help="a question to answer from the documents")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report"), show_default=True, help="folder of the report"
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.pass_obj
def review(settings: Settings, ask: str | None, out: Path, paths: tuple[Path, ...]) -> None:
    """Review documents: PDF, Markdown, HTML or plain text; folders are searched."""
    from howdah.app.demo.materials import from_paths

    _review(settings, from_paths(paths), ask, out, torment=False)


@cli.command()
@click.option("--ask", default=None, help="another question to answer from the documents")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report"), show_default=True, help="folder of the report"
)
@click.pass_obj
def demo(settings: Settings, ask: str | None, out: Path) -> None:
    """Review the licences and READMEs of the installed Python distributions, and kill processes meanwhile."""
    from howdah.app.demo.materials import from_installed

    _review(settings, from_installed(), ask, out, torment=True)


@cli.command()
@click.pass_obj
def migrate(settings: Settings) -> None:
    """Bring the database to this release's schema."""
    from howdah.app.database import bring_up_to_date, refuse_pooler
    from howdah.app.migrate import newest_revision

    refuse_pooler(settings)
    bring_up_to_date(find_database(settings), settings.cell)
    console.print(f"schema {settings.cell!r} is at revision {newest_revision()}")


@cli.command()
@click.option("--tenant", default=None, help="the tenant it acts for; without: an administrator's key")
@click.option("--name", default="howdah key", help="what it is for")
@click.pass_obj
def key(settings: Settings, tenant: str | None, name: str) -> None:
    """Make an API key and print it. It cannot be read again."""
    from howdah.app.keys import issue_key
    from howdah.sql.pool import cell_conninfo, connect
    from howdah.sql.tenancy.calls import create_tenant

    async def issue() -> str:
        conninfo = cell_conninfo(find_database(settings), settings.cell, pooled=settings.pooled)
        async with await connect(conninfo) as connection:
            if tenant is not None:
                await create_tenant(connection, tenant)
            return await issue_key(connection, tenant, name)

    click.echo(asyncio.run(issue()))


@cli.command()
def settings() -> None:
    """List every setting: variable, default, meaning."""
    table = Table("variable", "default", "meaning", show_edge=False)
    for row in describe_settings():
        table.add_row(*row)
    console.print(table)


@cli.command()
@click.pass_obj
def down(settings: Settings) -> None:
    """Stop the embedded PostgreSQL, should it have been left running. Data is kept."""
    from howdah.app import embedded

    running = embedded.find_running(data_folder(settings).resolve())
    if running is None:
        console.print("the embedded PostgreSQL does not run")
        return
    running.stop()
    console.print("stopped")


def _review(settings: Settings, materials: list[Any], ask: str | None, out: Path, *, torment: bool) -> None:
    from howdah.app.demo.story import QUESTION, review

    async def tell() -> bool:
        # However it is ended, the processes on stage are children of this one, and go with it.
        this = asyncio.current_task()
        assert this is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
        database = await asyncio.to_thread(provide_database, settings)
        try:
            return await review(console, settings, database, materials, ask or QUESTION, out, torment=torment)
        finally:
            database.stop()

    console.print(f"{len(materials)} documents to review")
    try:
        kept = _run(tell())
    except asyncio.CancelledError:
        console.print("\nstopped")
        sys.exit(130)
    if not kept:
        sys.exit(1)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    relax_collector()
    return uvloop.run(work)


def main() -> None:
    """Entry point: errors that a person can mend are a sentence, not a traceback."""
    try:
        cli()
    except (SettingError, NoDatabaseError, HowdahError, ProcessDiedError) as error:
        Console(stderr=True, highlight=False).print(Text(f"howdah: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
    except psycopg.OperationalError as error:
        Console(stderr=True, highlight=False).print(Text(f"howdah: the database cannot be used: {error}", style="red"))
        sys.exit(1)


if __name__ == "__main__":
    main()
