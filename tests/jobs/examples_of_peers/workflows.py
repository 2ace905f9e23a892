"""What other durable engines show in their guides, as one would write it here; all against tables of one database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from howdah.jobs import App, NonRetryableError, Run, SignalTimeoutError
from howdah.sql.pool import Connection
from tests.jobs.crash_worker import Strike, note, work

app = App()
app.periodic_registry.periodic_tasks.clear()


def work_on_examples(strike: Strike) -> None:
    work(strike, app)


# An order with payment and inventory: stock is reserved in a transaction, the payment comes as a signal or does not.


async def reserve(connection: Connection, count: int) -> bool:
    cursor = await connection.execute(
        "update public.stock set left_over = left_over - %s where left_over >= %s", [count] * 2
    )
    return cursor.rowcount == 1


async def give_back(connection: Connection, count: int) -> None:
    await connection.execute("update public.stock set left_over = left_over + %s", [count])


@app.workflow(name="order")
async def order(run: Run, count: int, patience: float) -> str:
    if not await run.transaction("reserve", reserve, count):
        return "sold out"
    await run.emit("order.reserved", {"count": count})
    try:
        paid = await run.wait_for("paid", bool, timeout=timedelta(seconds=patience))
    except SignalTimeoutError:
        paid = False
    if not paid:
        await run.transaction("give back", give_back, count)
        return "cancelled"
    await run.step("ship", note, run, "ship")
    await run.emit("order.shipped")
    return "shipped"


# A long loop of an agent that calls tools until it knows the answer.


@dataclass
class Turn:
    tool: str | None
    argument: int


async def think(run: Run, history: list[int]) -> Turn:
    await note(run, f"think {len(history)}")
    return (
        Turn(None, sum(history)) if len(history) == 12 else Turn("square" if len(history) % 2 else "next", len(history))
    )


async def use_tool(run: Run, turn: Turn) -> int:
    await note(run, f"tool {turn.argument}")
    return turn.argument**2 if turn.tool == "square" else turn.argument + 1


@app.workflow(name="agent")
async def agent(run: Run) -> int:
    history: list[int] = []
    while True:
        turn = await run.step("think", think, run, history)
        if turn.tool is None:
            return turn.argument
        history.append(await run.step("tool", use_tool, run, turn))
        await run.progress(len(history) / 12)


# Fan-out to children, fan-in of what they counted.


@app.workflow(name="count")
async def count(run: Run, text: str) -> dict[str, int]:
    async def letters() -> dict[str, int]:
        await note(run, "letters")
        return {letter: text.count(letter) for letter in sorted(set(text))}

    return await run.step("letters", letters)


@app.workflow(name="count all")
async def count_all(run: Run, texts: list[str], queue: str) -> dict[str, int]:
    total: dict[str, int] = {}
    for counted in await run.children("texts", count.configure(queue=queue), texts):
        for letter, times in counted.items():
            total[letter] = total.get(letter, 0) + times
    return total


# A person approves: reminded while silent, heard once.


@app.workflow(name="approval")
async def approval(run: Run, amount: int) -> str:
    await run.step("ask", note, run, "ask")
    for _ in range(20):
        try:
            decision = await run.wait_for(
                "decision", dict[str, str], choices=["approve", "reject"], timeout=timedelta(seconds=0.3)
            )
        except SignalTimeoutError:
            await run.step("remind", note, run, "remind")
            continue
        await run.step("act", note, run, decision["choice"])
        return f"{decision['choice']} by {decision['by']}"
    return "nobody answered"


# A saga: what was booked is unbooked in reverse when a later booking fails.


class FullyBooked(NonRetryableError):
    pass


async def book(connection: Connection, what: str) -> str:
    await connection.execute("insert into public.booking values (%s)", [what])
    return what


async def unbook(connection: Connection, what: str) -> None:
    await connection.execute("delete from public.booking where what = %s", [what])


async def book_car(run: Run) -> str:
    # Full the first time only: a later attempt that asked again would get one, and leave the trip half booked.
    if await note(run, "car") == 0:
        raise FullyBooked("no car")
    return "car"


@app.workflow(name="trip")
async def trip(run: Run) -> dict[str, Any]:
    booked: list[str] = []
    try:
        for what in ("flight", "hotel"):
            booked.append(await run.transaction(f"book {what}", book, what))  # noqa: PERF401 - read when one fails
        booked.append(await run.step("book car", book_car, run))
    except FullyBooked as error:
        for what in reversed(booked):
            await run.transaction(f"unbook {what}", unbook, what)
        return {"booked": [], "why": str(error)}
    return {"booked": booked, "why": None}
