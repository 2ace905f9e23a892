"""A failure that the code went on from is the same on every attempt; one that ended an attempt is tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from howdah.jobs import App, Run
from howdah.jobs.testing import Kit
from howdah.sql.pool import Connection

_calls: list[str] = []


@pytest.fixture(autouse=True)
def calls() -> list[str]:
    _calls.clear()
    return _calls


@pytest.fixture
def kit(app: App, database_url: str, connection: Connection) -> Kit:
    return Kit(app, database_url)


async def fine(what: str) -> str:
    _calls.append(what)
    return what


async def fails_once(what: str) -> str:
    """Another attempt that called it again would see something else."""
    _calls.append(what)
    if _calls.count(what) == 1:
        raise ConnectionError(f"no {what}")
    return what


async def fails_in_its_transaction(connection: Connection, what: str) -> str:
    return await fails_once(what)


def shown(results: list[Any]) -> list[str]:
    return [repr(result) if isinstance(result, Exception) else result for result in results]


async def gathered(run: Run) -> list[str]:
    return shown(
        await asyncio.gather(run.step("bad", fails_once, "bad"), run.step("good", fine, "good"), return_exceptions=True)
    )


async def gathered_in_branches(run: Run) -> list[str]:
    async def branch(name: str) -> str:
        await asyncio.sleep(0)
        await run.step(f"before {name}", fine, f"before {name}")
        return await run.step(name, fails_once if name == "bad" else fine, name)

    return shown(await asyncio.gather(branch("bad"), branch("good"), return_exceptions=True))


async def gathered_and_caught(run: Run) -> list[str]:
    try:
        await asyncio.gather(run.step("bad", fails_once, "bad"))
    except ConnectionError as error:
        caught = error
    return [repr(caught)]


async def grouped(run: Run) -> list[str]:
    caught: list[Any] = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(run.step("bad", fails_once, "bad"))
    except* ConnectionError as errors:
        caught += errors.exceptions
    return shown(caught)


async def waited_for(run: Run) -> list[str]:
    done, _ = await asyncio.wait([asyncio.create_task(run.step("bad", fails_once, "bad"))])
    return shown([task.exception() for task in done])


async def in_a_transaction(run: Run) -> list[str]:
    try:
        await run.transaction("bad", fails_in_its_transaction, "bad")
    except ConnectionError as error:
        caught = error
    return [repr(caught)]


@pytest.mark.parametrize("then", ["a kill", "a retry"])
@pytest.mark.parametrize(
    "way", [gathered, gathered_in_branches, gathered_and_caught, grouped, waited_for, in_a_transaction]
)
async def test_a_failure_that_the_code_went_on_from_is_seen_again(
    app: App, kit: Kit, calls: list[str], way: Any, then: str
) -> None:
    @app.workflow(name="w", retry=1)
    async def workflow(run: Run) -> list[str]:
        results: list[str] = await way(run)
        await run.step("next", fine, "next")
        if then == "a retry" and run.failures == 0:
            raise ValueError
        await run.step("last", fine, "last")
        return results

    with kit:
        if then == "a kill":
            kit.kill_at("last")
        result = await kit.run(workflow)
    assert (result.state, result.attempt) == ("succeeded", 2)
    assert result.output[0] == "ConnectionError('no bad')"
    assert calls.count("bad") == 1


async def test_a_failure_that_ends_the_attempt_is_tried_again_whatever_its_neighbours_did_meanwhile(
    app: App, kit: Kit, calls: list[str]
) -> None:
    ready, failed = asyncio.Event(), asyncio.Event()

    async def fails_and_tells() -> str:
        await ready.wait()
        failed.set()
        return await fails_once("bad")

    @app.workflow(name="w", retry=1)
    async def workflow(run: Run) -> list[str]:
        async def neighbour() -> str:
            await run.step("first", fine, "first")
            ready.set()
            await failed.wait()
            await asyncio.sleep(0)  # by now gather has seen the failure, and the code that awaits it has not
            return await run.step("second", fine, "second")

        return list(await asyncio.gather(run.step("bad", fails_and_tells), neighbour()))

    with kit:
        result = await kit.run(workflow)
    assert result.output == ["bad", "second"]


async def test_a_failure_that_its_starter_has_not_seen_yet_is_tried_again(app: App, kit: Kit, calls: list[str]) -> None:
    @app.workflow(name="w", retry=1)
    async def workflow(run: Run) -> str:
        task = asyncio.create_task(run.step("bad", fails_once, "bad"))
        await run.step("first", fine, "first")
        await run.step("second", fine, "second")
        return await task

    with kit:
        assert (await kit.run(workflow)).output == "bad"
