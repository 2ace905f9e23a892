"""What a worker lends to its runs."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from howdah.jobs.api.executor import ApiExecutor
from howdah.jobs.workflow.clock import Clock
from howdah.jobs.workflow.full_sessions import FullSessions
from howdah.sql.group_commit import GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool
from howdah.sql.stream.partial_sender import PartialSender
from howdah.sql.workflow.calls import ItemStatus, RunItem


class Witness(Protocol):
    """Sees what becomes of each step; what it raises ends the attempt. The testing kit has one."""

    def before(self, run_id: int, step: str) -> None:
        """The step's checkpoint is about to be written."""

    def after(self, run_id: int, step: str) -> None:
        """It is on disk."""

    def failed(self, run_id: int, step: str, error: Exception) -> None:
        """The step has raised this, and is not tried again by itself."""


@dataclass(frozen=True, slots=True)
class Engine:
    """`pool` is for the runs' own queries and transactions; without `partials`, no text is seen as it grows."""

    pool: Pool
    writer: GroupCommit[RunItem, ItemStatus]
    notifier: Notifier
    threads: ThreadPoolExecutor
    api: ApiExecutor
    resources: Mapping[type, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    witness: Witness | None = None
    partials: PartialSender | None = None
    full_sessions: FullSessions = field(default_factory=FullSessions)
