"""Health: `/health/live` is about the process, `/health/ready` about what it needs to serve."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency

from howdah.app.composition import Resources, check_ready

# A probe that waits longer than its prober's usual time-out of some seconds answers nobody.
READY_SECONDS = 2.0


class Health(msgspec.Struct, frozen=True):
    """It is well; anything else is a problem document."""

    status: Literal["ok"]


@get("/health/live", tags=["health"], sync_to_thread=False)
def check_live() -> Health:
    """Whether the process answers at all."""
    return Health("ok")


@get("/health/ready", tags=["health"])
async def check_readiness(resources: NamedDependency[Resources]) -> Health:
    """Whether the database can be reached and its schema is this release's; else 503."""
    await check_ready(resources, READY_SECONDS)
    return Health("ok")
