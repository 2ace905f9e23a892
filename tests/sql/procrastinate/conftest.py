"""Stock procrastinate, unchanged, on this test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import procrastinate
import pytest


@pytest.fixture
async def app(conninfo: str) -> AsyncIterator[procrastinate.App]:
    """An open app on the asynchronous connector."""
    async with procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo)).open_async() as opened:
        yield opened


@pytest.fixture
def sync_app(conninfo: str) -> Iterator[procrastinate.App]:
    """An open app on the synchronous connector."""
    with procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=conninfo)).open() as opened:
        yield opened
