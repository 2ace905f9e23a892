"""What the workers of test_random_workflows.py run: a workflow that does what a tree says."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from howdah.jobs import App, RetryStrategy, Run
from tests.jobs.crash_worker import Strike, note, work

# [kind, …], as it goes through JSON to the workflow and its children.
Tree = list[Any]


class Refused(Exception):
    pass


def double(number: int) -> int:
    return number * 2


async def double_soon(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


app = App()
app.periodic_registry.periodic_tasks.clear()


@app.workflow(name="tree", queue="trees")
async def evaluate(run: Run, task: dict[str, Any]) -> Any:
    """What `plain` says of the tree, durably: {"queue": where children go, "tree": …}."""
    queue = task["queue"]

    async def flaky(path: str, failures: int, retries: int) -> int:
        if failures > retries:
            raise Refused(f"{failures} > {retries}")
        if await note(run, path) < failures:
            raise Refused("again")
        return failures

    async def pay(connection: Any, path: str, number: int) -> int:
        await connection.execute("insert into public.paid_for values (%s, %s)", [run.id, path])
        return number * 2

    async def at(path: str, tree: Tree) -> Any:
        match tree:
            case ["step", number]:
                return await run.step(path, double_soon, number)
            case ["thread", number]:
                return await run.step(path, double, number)
            case ["pay", number]:
                return await run.transaction(path, pay, path, number)
            case ["sleep", number]:
                await run.sleep(path, timedelta(milliseconds=number))
                return number
            case ["emit", number]:
                await run.emit(f"at {path}", number)
                return number
            case ["map", numbers, limit]:
                return await run.map(path, double_soon, numbers, limit=limit)
            case ["flaky", failures, retries, rests]:
                wait = 0.02 if rests else 0
                allowed = RetryStrategy(max_attempts=retries, wait=wait)  # type: ignore[arg-type]
                return await run.step(path, flaky, path, failures, retries, retry=allowed)
            case ["all", trees]:
                return [await at(f"{path}.{number}", tree) for number, tree in enumerate(trees)]
            case ["beside", trees]:
                return await asyncio.gather(*(at(f"{path}.{number}", tree) for number, tree in enumerate(trees)))
            case ["children", trees]:
                return await run.children(
                    path, evaluate.configure(queue=queue), [{"queue": queue, "tree": t} for t in trees]
                )
            case ["caught", tree, instead]:
                try:
                    return await at(f"{path}.0", tree)
                except Refused as error:
                    return ["caught", *error.args, await at(f"{path}.1", instead)]
        raise AssertionError(tree)

    return await at("r", task["tree"])


def work_on_trees(strike: Strike) -> None:
    work(strike, app)
