"""The API: which controllers there are, and what surrounds them all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide

from howdah.app.api.auth import provide_caller, provide_resources, require_key
from howdah.app.api.bulk_runs import BulkRunController
from howdah.app.api.collections import CollectionController
from howdah.app.api.consumers import ConsumerController
from howdah.app.api.events import EventController
from howdah.app.api.files import FileController
from howdah.app.api.health import check_live, check_readiness
from howdah.app.api.metrics import Metrics, provide_metrics, read_metrics, start_clock
from howdah.app.api.models import ModelController
from howdah.app.api.new_events import NewEventController
from howdah.app.api.openapi import complete_document, openapi_config, read_asset
from howdah.app.api.partials import PartialController
from howdah.app.api.problems import EXCEPTION_HANDLERS
from howdah.app.api.queues import QueueController
from howdah.app.api.runs import RunController
from howdah.app.api.schedules import ScheduleController
from howdah.app.api.sessions import SessionController
from howdah.app.api.short_ways import open_short_ways
from howdah.app.api.stream_tokens import StreamTokenController
from howdah.app.api.streams import StreamController
from howdah.app.api.tasks import TaskController
from howdah.app.api.tenants import TenantController
from howdah.app.api.workers import WorkerController
from howdah.app.api.workflows import WorkflowController
from howdah.app.composition import open_resources
from howdah.app.dashboard.page import read_page, read_page_file
from howdah.app.settings import Settings

CONTROLLERS = (
    RunController,
    BulkRunController,
    WorkflowController,
    ScheduleController,
    SessionController,
    ConsumerController,
    NewEventController,
    EventController,
    PartialController,
    StreamController,
    StreamTokenController,
    CollectionController,
    FileController,
    ModelController,
    QueueController,
    TaskController,
    TenantController,
    WorkerController,
)


def create_app(settings: Settings, database_url: str) -> Litestar:
    """The API of one process. Its resources open when it starts; a database that cannot serve stops it there.

    The lifespan raises :class:`howdah.sql.errors.DatabaseUnfit` where the schema is missing or not this release's.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def opened(app: Litestar) -> AsyncIterator[None]:
        async with open_resources(settings, database_url) as resources:
            app.state.resources = resources
            metrics.watch(resources)
            yield

    keyed = Router("/", route_handlers=CONTROLLERS, guards=[require_key])
    app = Litestar(
        [keyed, check_live, check_readiness, read_metrics, read_asset, read_page, read_page_file],
        lifespan=[opened],
        state=State({"metrics": metrics}),
        dependencies={
            "resources": Provide(provide_resources, sync_to_thread=False),
            "caller": Provide(provide_caller, sync_to_thread=False),
            "metrics": Provide(provide_metrics, sync_to_thread=False),
        },
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[start_clock],
        before_send=[metrics.observe],
        openapi_config=openapi_config(),
        request_max_body_size=settings.max_body_bytes,
        # Logs are structlog's affair; Litestar would set up its own.
        logging_config=None,
    )
    complete_document(app)
    open_short_ways(app)
    return app
