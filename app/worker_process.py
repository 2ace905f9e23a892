"""What a worker process is made of, and how it ends: on SIGTERM it finishes its runs, or hands them back."""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

from howdah.app.settings import Settings
from howdah.jobs.api.executor import ApiExecutor
from howdah.jobs.app import App
from howdah.jobs.models import Models, compose_models, publish_catalogue
from howdah.jobs.worker.worker import Worker, WorkerSettings
from howdah.router import Embedder
from howdah.sql.pool import cell_conninfo, check_database, check_search_path, connect

DEFAULT_APP = "howdah.jobs.examples.app:app"


class AppNotFoundError(RuntimeError):
    """The path of an app cannot be followed; the message says how far it went."""


def load_app(path: str) -> App:
    """The app at ``package.module:name``, with its import_paths imported.

    Raises
    ------
    AppNotFoundError
        If there is no such module, name, or if it is not a Howdah `App`.
    """
    module_name, _, name = path.partition(":")
    # As `python -m` does, so that an author's module in the working directory is found.
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise AppNotFoundError(f"there is no module {error.name!r} (asked for {path!r}, from {Path.cwd()})") from error
    app = getattr(module, name or "app", None)
    if not isinstance(app, App):
        found = "nothing" if app is None else f"a {type(app).__name__}"
        raise AppNotFoundError(f"{path!r} is {found}, not a howdah.jobs.App: write it as package.module:name")
    app.perform_import_paths()  # type: ignore[no-untyped-call]
    return app


async def run_worker(settings: Settings, database_url: str, app: App, queues: tuple[str, ...] = ()) -> None:
    """Work until SIGTERM or SIGINT."""
    app.cell = settings.cell
    app.retention = timedelta(days=settings.retention_days) if settings.retention_days > 0 else None
    app.event_days = settings.event_days or None
    conninfo = cell_conninfo(database_url, settings.cell, "howdah-worker", pooled=settings.pooled)
    models = compose_models(settings.openai_api_key, settings.openai_base_url)
    async with await connect(conninfo) as connection:
        await check_database(connection)
        await check_search_path(connection, settings.cell)
        models = await publish_catalogue(connection, models)
    async with ApiExecutor(allow_private=[ip_network(network) for network in settings.api_allow_private]) as api:
        worker = Worker(
            app,
            conninfo,
            WorkerSettings(
                queues=queues,
                concurrency=settings.worker_concurrency,
                heartbeat=settings.heartbeat_seconds,
                rescue=settings.rescue_seconds,
                shutdown=settings.shutdown_seconds,
            ),
            api=api,
            resources={Models: models, Embedder: models.embedder},
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        await worker.run()
