"""Hints: few, soon, after the commit; and a listener that comes back by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from howdah.sql.listener import listen
from howdah.sql.notifier import MAX_PAYLOADS, Notifier
from howdah.sql.pool import Connection, Pool, make_pool
from howdah.sql.queue.calls import NewRun
from howdah.sql.queue.writer import enqueue_writer
from tests.sql.engine import rows

Heard = asyncio.Queue[tuple[str, str]]


@asynccontextmanager
async def listening(conninfo: str, *channels: str) -> AsyncIterator[Heard]:
    """What a listener hears, after its first look at everything."""
    heard: Heard = asyncio.Queue()
    ready = asyncio.Event()
    task = asyncio.create_task(listen(conninfo, channels, lambda c, p: heard.put_nowait((c, p)), ready=ready))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
            for channel in channels:
                assert await heard.get() == (channel, "")
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def take(heard: Heard, count: int) -> set[tuple[str, str]]:
    async with asyncio.timeout(10):
        return {await heard.get() for _ in range(count)}


async def test_a_hint_arrives_on_its_channel_with_its_payload(conninfo: str, pool: Pool) -> None:
    async with listening(conninfo, "howdah.runs", "howdah.events") as heard:
        notifier = Notifier(pool)
        notifier.hint("runs", ["mail"])
        notifier.hint("events", ["default/case"])
        assert await take(heard, 2) == {("howdah.runs", "mail"), ("howdah.events", "default/case")}


async def test_the_same_hint_many_times_is_sent_once(conninfo: str, pool: Pool) -> None:
    async with listening(conninfo, "howdah.runs") as heard:
        notifier = Notifier(pool)
        for _ in range(1000):
            notifier.hint("runs", ["mail", "default"])
        await notifier.aclose()
        notifier.hint("runs", ["last"])
        assert await take(heard, 3) == {("howdah.runs", name) for name in ("mail", "default", "last")}
        assert heard.empty()


async def test_too_many_payloads_become_a_look_at_everything(conninfo: str, pool: Pool) -> None:
    async with listening(conninfo, "howdah.events") as heard:
        notifier = Notifier(pool)
        notifier.hint("events", [f"default/{number}" for number in range(MAX_PAYLOADS + 1)])
        assert await take(heard, 1) == {("howdah.events", "")}
        await notifier.aclose()
        assert heard.empty()


async def test_closing_sends_what_is_pending(conninfo: str, pool: Pool) -> None:
    async with listening(conninfo, "howdah.runs") as heard:
        notifier = Notifier(pool)
        notifier.hint("runs", ["mail"])
        await notifier.aclose()
        assert await take(heard, 1) == {("howdah.runs", "mail")}


async def test_another_cells_listeners_hear_nothing(conninfo: str, pool: Pool) -> None:
    async with listening(conninfo, "howdah.runs") as heard:
        other, ours = Notifier(pool, "acme"), Notifier(pool)
        other.hint("runs", ["mail"])
        await other.aclose()
        ours.hint("runs", ["ours"])
        assert await take(heard, 1) == {("howdah.runs", "ours")}


async def test_an_enqueue_through_the_writer_is_told_after_it_can_be_seen(
    conninfo: str, pool: Pool, connection: Connection
) -> None:
    async with listening(conninfo, "howdah.runs") as heard:
        notifier = Notifier(pool)
        sent = asyncio.create_task(enqueue_writer(pool, notifier).submit(NewRun("default", "t", queue="mail")))
        assert await take(heard, 1) == {("howdah.runs", "mail")}
        assert await rows(connection, "select queue from run") == ["mail"]
        assert (await sent).status == "created"
        await notifier.aclose()


async def test_a_listener_that_is_cut_comes_back_and_looks_at_everything(
    conninfo: str, pool: Pool, connection: Connection
) -> None:
    async with listening(conninfo, "howdah.runs") as heard:
        await connection.execute(
            b"select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            b" where query like 'listen%%' and datname = current_database()"
        )
        assert await take(heard, 1) == {("howdah.runs", "")}
        notifier = Notifier(pool)
        notifier.hint("runs", ["mail"])
        assert await take(heard, 1) == {("howdah.runs", "mail")}
        await notifier.aclose()


async def test_hints_that_cannot_be_sent_are_dropped_without_an_error(conninfo: str) -> None:
    closed = make_pool(conninfo)
    notifier = Notifier(closed)
    notifier.hint("runs", ["mail"])
    await notifier.aclose()


@pytest.mark.parametrize("payload", ["", "a" * 128, "ünïcode/☃"])
async def test_a_payload_arrives_as_it_was_given(conninfo: str, pool: Pool, payload: str) -> None:
    async with listening(conninfo, "howdah.runs") as heard:
        Notifier(pool).hint("runs", [payload])
        assert await take(heard, 1) == {("howdah.runs", payload)}
