"""Child runs: sent together with their ids' checkpoint, awaited as a row, their outputs kept in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg

from howdah.jobs.errors import ChildrenFailedError
from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.history import History
from howdah.jobs.workflow.rest import Rest
from howdah.jobs.workflow.steps import Steps
from howdah.sql.errors import StaleAttempt, from_psycopg
from howdah.sql.queue.calls import ClaimedRun, NewRun
from howdah.sql.queue.writer import RUNS_CHANNEL
from howdah.sql.reconnect import through_reconnects
from howdah.sql.workflow.calls import Outcome, read_outcomes, spawn_children

if TYPE_CHECKING:
    from howdah.jobs.app import Workflow

SPAWN = 1000  # children enqueued in one transaction
PAGE_BYTES = 500_000  # of outputs kept in one checkpoint, a single larger one apart
MAX_SHOWN = 5  # failures named in an error


class _Spawned(msgspec.Struct):
    children: list[int]


async def run_children(
    claimed: ClaimedRun,
    engine: Engine,
    history: History,
    rest: Rest,
    steps: Steps,
    step: str,
    after: str | None,
    workflow: Workflow[Any, Any],
    items: Sequence[Any],
) -> list[str]:
    """The children's outputs as JSON text, in the items' order."""
    known = await steps.recall(step, after)
    if known is not None:
        count = history.decode(step, known, int)
        return [output for number in range(count) for output in _page(history, step, number)]
    ids = await _spawn(claimed, engine, history, rest, step, workflow, items)

    async def read() -> dict[int, Outcome]:
        async with engine.pool.connection() as connection:
            return {outcome.run_id: outcome for outcome in await read_outcomes(connection, ids)}

    while True:
        await rest.begin()
        try:
            outcomes = await through_reconnects(read, f"the children of step {step!r}")
        finally:
            rest.done()
        if len(outcomes) == len(ids):
            break
        await rest.wait({"children": step})
    failures = {
        place: f"run {run_id} {outcomes[run_id].state}: {_reason(outcomes[run_id].error)}"
        for place, run_id in enumerate(ids)
        if outcomes[run_id].state != "succeeded"
    }
    if failures:
        shown = "; ".join(f"{place}: {failure[:300]}" for place, failure in list(failures.items())[:MAX_SHOWN])
        raise ChildrenFailedError(f"{len(failures)} of {len(ids)} children of step {step!r} failed: {shown}", failures)
    outputs = [outcomes[run_id].output or "null" for run_id in ids]
    pages = _pages(outputs)
    for number, page in enumerate(pages):
        part = f"{step}#outputs-{number}"
        if history.peek(part) is None:
            await steps.keep(part, None, f"[{','.join(page)}]")
    await steps.keep(step, after, str(len(pages)))
    return outputs


async def _spawn(
    claimed: ClaimedRun,
    engine: Engine,
    history: History,
    rest: Rest,
    step: str,
    workflow: Workflow[Any, Any],
    items: Sequence[Any],
) -> list[int]:
    ids: list[int] = []
    for start in range(0, len(items), SPAWN):
        part = f"{step}#children-{start // SPAWN}"
        known = history.peek(part)
        if known is not None:
            ids += msgspec.json.decode(known, type=_Spawned).children
            continue
        runs = [workflow.new_run(item) for item in items[start : start + SPAWN]]

        async def spawn(part: str = part, runs: list[NewRun] = runs) -> list[int]:
            async with engine.pool.connection() as connection:
                return await spawn_children(connection, claimed.id, claimed.attempt, part, step, runs)

        await rest.begin()
        try:
            ids += await through_reconnects(spawn, f"the children of step {step!r}")
        except psycopg.Error as error:
            known_error = from_psycopg(error)
            if isinstance(known_error, StaleAttempt):
                rest.lose()
            raise (known_error or error) from error
        finally:
            rest.done()
        engine.notifier.hint(RUNS_CHANNEL, {run.queue or "" for run in runs})
    return ids


def _reason(error: str | None) -> str:
    """An error's type and message: its traceback is the child's affair."""
    body = msgspec.json.decode(error or "null")
    return f"{body.get('type')}: {body.get('message')}" if isinstance(body, dict) else str(body)


def _pages(outputs: Sequence[str]) -> list[list[str]]:
    pages: list[list[str]] = []
    size = PAGE_BYTES
    for output in outputs:
        if size + len(output) > PAGE_BYTES:
            pages.append([])
            size = 0
        pages[-1].append(output)
        size += len(output)
    return pages


def _page(history: History, step: str, number: int) -> list[str]:
    text = history.peek(f"{step}#outputs-{number}") or "[]"
    return [bytes(raw).decode() for raw in msgspec.json.decode(text, type=list[msgspec.Raw])]
