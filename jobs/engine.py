"""What a worker lends to its runs."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from howdah.jobs.api_executor import ApiExecutor
from howdah.sql.group_commit import GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool
from howdah.sql.workflow.calls import ItemStatus, RunItem


@dataclass(frozen=True, slots=True)
class Engine:
    """`pool` is for the runs' own queries and transactions."""

    pool: Pool
    writer: GroupCommit[RunItem, ItemStatus]
    notifier: Notifier
    threads: ThreadPoolExecutor
    api: ApiExecutor
    resources: Mapping[type, Any] = field(default_factory=dict)
