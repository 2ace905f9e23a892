"""A worker in this process, for what needs no signal; those that need one are real processes, in test_kill.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Any

import pytest

from howdah.jobs import App
from howdah.jobs.api.executor import ApiExecutor
from howdah.jobs.worker.worker import Worker, WorkerSettings

Work = Callable[..., Awaitable[Worker]]


@pytest.fixture
def app(database_url: str) -> App:
    """An app of this test's database. Not scheduled are its own tasks: a minute may begin during a test."""
    app = App(database_url=database_url)
    app.periodic_registry.periodic_tasks.clear()
    return app


@pytest.fixture
def work(conninfo: str) -> Work:
    """Run a worker of an app until its queues are empty and everything is written."""

    async def work(app: App, resources: dict[type, Any] | None = None, **settings: Any) -> Worker:
        # Loopback is private: without this the executor would refuse it.
        async with ApiExecutor(allow_private=[ip_network("127.0.0.1/32")]) as api:
            worker = Worker(app, conninfo, WorkerSettings(**settings), api=api, resources=resources)
            async with asyncio.timeout(30):
                await worker.run(until_idle=True)
        return worker

    return work
