"""Replay: a workflow's present code on the steps that a finished run has kept. None runs, and nothing is written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from howdah.jobs.api.executor import ApiExecutor
from howdah.jobs.app import Workflow
from howdah.jobs.errors import HistoryContradictedError
from howdah.jobs.testing.run_results import is_step
from howdah.jobs.workflow.clock import Clock
from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.history import Finished
from howdah.jobs.workflow.past import Past
from howdah.jobs.workflow.run import Run
from howdah.jobs.workflow.stop import Stop
from howdah.sql.group_commit import GroupCommit
from howdah.sql.notifier import Notifier
from howdah.sql.pool import make_pool
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.workflow.calls import ItemStatus, RunItem, Signal


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What there is to know of a run that has ended.

    Attributes
    ----------
    failures
        What the functions of its steps have raised, as far as somebody has seen it: the code may have gone on.
    """

    claimed: ClaimedRun
    state: str
    steps: Mapping[str, Finished]
    signals: Sequence[Signal]
    failures: Mapping[str, Exception]


class _WholeHistory(Mapping[str, Finished]):
    """The steps of a run that has ended: one that is not among them failed at the time, or is one too many."""

    def __init__(self, finished: FinishedRun) -> None:
        self._finished = finished
        self.too_many: HistoryContradictedError | None = None

    def __getitem__(self, step: str) -> Finished:
        return self._finished.steps[step]

    def __iter__(self) -> Iterator[str]:
        return iter(self._finished.steps)

    def __len__(self) -> int:
        return len(self._finished.steps)

    def get(self, step: str, default: Any = None) -> Any:
        found = self._finished.steps.get(step, default)
        if found is not None or not is_step(step):
            return found
        if (failure := self._finished.failures.get(step)) is not None:
            raise failure
        if self.too_many is None:
            self.too_many = HistoryContradictedError(
                f"run {self._finished.claimed.id} has ended, and the code now asks for step {step!r}, which it has not"
                f" finished; it has {', '.join(filter(is_step, self)) or 'none'}"
            )
        raise self.too_many


class _Holder:
    stop: Stop | None = None
    asked = False
    caught_up = False

    def end(self, why: Stop) -> None:
        raise AssertionError(f"a replay is not asked to stop: {why.value}")


async def replay(
    finished: FinishedRun, workflow: Workflow[Any, Any], conninfo: str, clock: Clock, resources: Mapping[type, Any]
) -> None:
    """Run the workflow's code on these steps; a failed run may end wherever its steps do.

    Raises
    ------
    HistoryContradictedError
        If the code does not ask for the same ones.
    """
    history = _WholeHistory(finished)
    claimed = finished.claimed

    async def answer(items: Sequence[RunItem]) -> list[ItemStatus]:
        # Events, which were emitted then; and waits, which are over.
        return ["ready" if item.kind == "outcome" else "ok" for item in items]

    with ThreadPoolExecutor(1) as threads:
        async with make_pool(conninfo, min_size=0) as pool, ApiExecutor() as api:
            notifier = Notifier(pool, workflow.app.cell)
            engine = Engine(pool, GroupCommit(answer), notifier, threads, api, resources, clock)
            past = Past(history, finished.signals)
            run = Run(claimed, past, engine, _Holder(), f"{workflow.app.cell},public")
            try:
                # A task, as a worker's, has a context of its own: the place in the history is kept there.
                await asyncio.create_task(_call(workflow, run, claimed))
            except HistoryContradictedError:
                if history.too_many is None or finished.state == "succeeded":
                    raise
            except Exception as error:
                if finished.state == "succeeded":
                    raise HistoryContradictedError(
                        f"run {claimed.id} has succeeded, and the code now raises {type(error).__name__}: {error}"
                    ) from error
            finally:
                run.close()
                await notifier.aclose()
            if history.too_many is not None and finished.state == "succeeded":
                raise history.too_many
            run.end()


async def _call(workflow: Workflow[Any, Any], run: Run, claimed: ClaimedRun) -> Any:
    return await workflow.function(run, **workflow.signature.decode(claimed.args))
