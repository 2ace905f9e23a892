"""What the worker of these tests runs: something with steps, children, a question, and failures."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from howdah.jobs import App, NonRetryableError, Run

app = App()


@app.workflow(name="book.review", queue="books")
async def review(run: Run, title: str, pages: int = 4) -> str:
    """Read a book, have each page judged, and ask whether it is to be printed."""
    text = await run.step("open", open_book, title)
    await run.progress(0.2, "opened")
    await run.log("found a typo", page=3)
    scores = await run.children("pages", judge, list(range(pages)))
    await run.progress(0.7, "waiting for approval")
    choice: str = await run.wait_for("approval", str, choices=["approve", "reject"])
    await run.step("stamp", stamp, choice)
    await run.progress(1.0, choice)
    return f"{text}: {choice}, {sum(scores)} points"


@app.workflow(name="book.judge", queue="books")
async def judge(run: Run, page: int) -> int:
    """Judge a page."""
    return await run.step("read", score, page)


@app.workflow(name="book.fail", queue="books")
async def fail(run: Run, size: Literal["small", "large"]) -> None:
    """Fail, with a traceback."""
    await run.step("open", open_book, "a lost book")
    raise NonRetryableError(f"the {size} book is lost")


@app.workflow(name="gate.pass", queue="books")
async def pass_gates(run: Run, folder: str, gates: int) -> int:
    """A step a gate: a file that a test makes when it is to go on."""
    for number in range(1, gates + 1):
        await run.step(f"gate {number}", gate, folder, number)
        await run.progress(number / gates, f"through gate {number}")
    return gates


async def open_book(title: str) -> dict[str, str]:
    return {"title": title, "isbn": "978-3-16-148410-0", "text": "It was a dark and stormy night. " * 9}


async def stamp(choice: str) -> str:
    return choice.upper()


async def score(page: int) -> int:
    await asyncio.sleep(0.1 * (page % 7))
    return page % 5


async def gate(folder: str, number: int) -> int:
    while not (Path(folder) / str(number)).exists():  # noqa: ASYNC110 - what it waits for is another process
        await asyncio.sleep(0.02)
    return number
