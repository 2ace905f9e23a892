"""Who kills a worker of the testing kit where it was told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from howdah.jobs.testing.run_results import is_step
from howdah.jobs.worker.worker import Worker

When = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Order:
    step: str | int
    when: When


class Executioner:
    """Sees each step finish, and kills the worker at the one that it was told.

    Attributes
    ----------
    failures
        What the functions of steps have raised, by (run, step): no history keeps it.
    has_struck
        Whether the last worker was killed.
    """

    def __init__(self) -> None:
        self.order: Order | None = None
        self.failures: dict[tuple[int, str], Exception] = {}
        self.has_struck = False
        self._worker: Worker | None = None
        self._finished: dict[int, set[str]] = {}

    def watch(self, worker: Worker) -> None:
        self._worker = worker
        self.has_struck = False

    def before(self, run_id: int, step: str) -> None:
        if self.has_struck:
            raise asyncio.CancelledError(f"step {step!r} has finished in a worker that was killed")
        self._strike(run_id, step, "before")

    def after(self, run_id: int, step: str) -> None:
        if is_step(step):
            self._finished.setdefault(run_id, set()).add(step)
        self._strike(run_id, step, "after")

    def failed(self, run_id: int, step: str, error: Exception) -> None:
        self.failures[run_id, step] = error

    def _strike(self, run_id: int, step: str, when: When) -> None:
        order = self.order
        if order is None or order.when != when or not is_step(step):
            return
        number = len(self._finished.get(run_id, ())) + (when == "before")
        if order.step in (step, number):
            self.order = None
            self.has_struck = True
            assert self._worker is not None
            self._worker.die()
            raise asyncio.CancelledError(f"killed {when} step {step!r} was kept")
