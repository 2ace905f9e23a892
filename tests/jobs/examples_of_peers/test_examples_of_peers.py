"""The examples by which durable engines are known, each with its worker killed in the middle, more than once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from howdah.sql.pool import Connection
from tests.jobs.deaths import run_to_its_end, strikes
from tests.jobs.examples_of_peers.workflows import work_on_examples
from tests.jobs.test_waiting import send
from tests.sql.engine import enqueue, rows, value

QUEUE = "peers"


@pytest.fixture
def prepared(conninfo: str, db: psycopg.Connection) -> str:
    """A database with tables for what steps do to the world."""
    db.execute(
        "create table public.effect"
        " (run_id bigint, what text, attempt integer, at timestamptz default clock_timestamp());"
        "create table public.stock as select 10 as left_over;"
        "create table public.booking (what text)"
    )
    return conninfo


async def start(connection: Connection, task: str, **args: Any) -> int:
    (run_id,) = await enqueue(connection, task=task, args=msgspec.json.encode(args).decode(), queue=QUEUE)
    return run_id


async def executed(connection: Connection) -> dict[str, int]:
    return dict(await rows(connection, "select what, count(*) from public.effect group by what"))


def reached(tmp_path: Path, deaths: list[int]) -> bool:
    """Whether each worker died that should."""
    return (tmp_path / QUEUE).read_text().count("*") == len(deaths)


@pytest.mark.parametrize(
    ("paid", "end", "left"), [(True, "shipped", 7), (False, "cancelled", 10), (None, "cancelled", 10)]
)
@pytest.mark.parametrize("deaths", [[5], [9, 4]])
async def test_an_order_takes_stock_once_and_gives_it_back_once(
    prepared: str, connection: Connection, tmp_path: Path, deaths: list[int], paid: bool | None, end: str, left: int
) -> None:
    run_id = await start(connection, "order", count=3, patience=20 if paid is not None else 0.2)

    async def pay() -> None:
        waits = 'select from run where id = %s and awaits @> \'[{"signal": "paid"}]\''
        if paid is not None and await rows(connection, waits, run_id):
            await send(connection, run_id, "paid", paid, key="once")

    how = await run_to_its_end(connection, run_id, work_on_examples, strikes(prepared, QUEUE, tmp_path, deaths), pay)
    assert how == ("succeeded", end)
    assert await value(connection, "select left_over from public.stock") == left
    told = await rows(connection, "select type from event where type like 'order.%%' order by seq")
    assert told == ["order.reserved", "order.shipped"][: 2 if end == "shipped" else 1]
    assert reached(tmp_path, deaths)


@pytest.mark.parametrize("deaths", [[20], [31, 17, 12]])
async def test_an_agents_loop_goes_on_at_the_turn_where_it_was(
    prepared: str, connection: Connection, tmp_path: Path, deaths: list[int]
) -> None:
    run_id = await start(connection, "agent")
    how = await run_to_its_end(connection, run_id, work_on_examples, strikes(prepared, QUEUE, tmp_path, deaths))
    tools = [number**2 if number % 2 else number + 1 for number in range(12)]
    assert how == ("succeeded", sum(tools))
    times = await executed(connection)
    assert len(times) == 25
    assert sum(times.values()) - len(times) <= len(deaths), "each death repeats one step at most"
    assert reached(tmp_path, deaths)


@pytest.mark.parametrize("deaths", [[4], [12, 9]])
async def test_what_was_fanned_out_is_fanned_in_once(
    prepared: str, connection: Connection, tmp_path: Path, deaths: list[int]
) -> None:
    texts = [letter * number for number, letter in enumerate("abcdeabc", 1)]
    run_id = await start(connection, "count all", texts=texts, queue=QUEUE)
    how = await run_to_its_end(connection, run_id, work_on_examples, strikes(prepared, QUEUE, tmp_path, deaths))
    assert how == ("succeeded", {letter: "".join(texts).count(letter) for letter in "abcde"})
    assert await value(connection, "select count(*) from run_history where parent_id = %s", run_id) == len(texts)
    assert reached(tmp_path, deaths)


@pytest.mark.parametrize("deaths", [[4], [6, 5]])
async def test_an_approval_is_asked_for_reminded_of_and_heard_once(
    prepared: str, connection: Connection, tmp_path: Path, deaths: list[int]
) -> None:
    run_id = await start(connection, "approval", amount=900)

    async def decide() -> None:
        if (await executed(connection)).get("remind", 0) >= 2:
            await send(connection, run_id, "decision", {"choice": "perhaps", "by": "bob"}, key="no choice")
            await send(connection, run_id, "decision", {"choice": "approve", "by": "ann"}, key="choice")

    how = await run_to_its_end(connection, run_id, work_on_examples, strikes(prepared, QUEUE, tmp_path, deaths), decide)
    assert how == ("succeeded", "approve by ann")
    assert (await executed(connection)).keys() == {"ask", "remind", "approve"}
    assert reached(tmp_path, deaths)


@pytest.mark.parametrize("deaths", [[8], [9], [10], [11], [12, 6]])
async def test_a_saga_that_began_to_compensate_compensates_to_its_end(
    prepared: str, connection: Connection, tmp_path: Path, deaths: list[int]
) -> None:
    run_id = await start(connection, "trip")
    state, got = await run_to_its_end(connection, run_id, work_on_examples, strikes(prepared, QUEUE, tmp_path, deaths))
    assert state == "succeeded", got
    assert await rows(connection, "select what from public.booking order by what") == sorted(
        what for what in got["booked"] if what != "car"
    ), got
    assert reached(tmp_path, deaths)
