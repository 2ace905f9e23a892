"""A text is seen as it grows, in few notifications, and is one event in the end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from howdah.jobs import App, Run
from howdah.sql.errors import TooLarge
from howdah.sql.pool import Connection, Pool
from howdah.sql.stream import partial_sender
from howdah.sql.stream.partial_sender import MAX_PAYLOAD_BYTES, PartialSender, PartialText
from tests.jobs.conftest import Work
from tests.jobs.partials_app import TOKENS
from tests.sql.engine import claim, enqueue, new_worker, rows, running, value
from tests.sql.test_notifier import Heard, listening

ROOT = Path(__file__).parents[2]
CHANNEL = "howdah.partials"
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def start(conninfo: str) -> Iterator[Start]:
    """Start a worker process; those that are left are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-m", "tests.jobs.partials_app", conninfo], cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


async def parts(heard: Heard) -> list[dict[str, Any]]:
    """What was heard by now; a notification that the test sends itself comes last."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(10):
        while (payload := (await heard.get())[1]) != "x":
            if payload:
                assert len(payload.encode()) <= MAX_PAYLOAD_BYTES
                found.append(json.loads(payload.partition(" ")[2]))
    return found


def text_of(found: list[dict[str, Any]]) -> str:
    text = ""
    for part in found:
        assert part["data"]["offset"] == len(text)
        text += part["data"]["text"]
    return text


async def gates(connection: Connection) -> None:
    await connection.execute("create table public.here (name text, attempt integer)")
    await connection.execute("create table public.gate (name text)")


async def until_here(connection: Connection, name: str, attempt: int) -> None:
    async with asyncio.timeout(20):
        query = "select exists (select from public.here where name = %s and attempt = %s)"
        while not await value(connection, query, name, attempt):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def open_gates(connection: Connection, *names: str) -> None:
    await connection.execute("insert into public.gate select unnest(%s::text[])", [list(names)])


async def until_ended(connection: Connection, run_id: int) -> None:
    async with asyncio.timeout(20):
        while not await value(connection, "select exists (select from run_history where id = %s)", run_id):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_thousand_tokens_are_few_notifications_and_one_event(
    connection: Connection, conninfo: str, start: Start
) -> None:
    await gates(connection)
    await open_gates(connection, "before", "middle", "written", "after")
    (run_id,) = await enqueue(connection, task="tell", queue="partials")
    async with listening(conninfo, CHANNEL) as heard:
        start()
        await until_ended(connection, run_id)
        await connection.execute(f"notify \"{CHANNEL}\", 'x'".encode())
        found = await parts(heard)
    stream = "speak/assistant.message"
    assert {(part["type"], part["subject"], part["data"]["stream"]) for part in found} == {
        ("assistant.message", str(run_id), stream)
    }
    assert text_of(found) == "".join(TOKENS)
    assert 1 < len(found) < len(TOKENS) / 5
    assert await rows(connection, "select data from event where type = 'assistant.message'") == [
        {"text": "".join(TOKENS), "stream": stream}
    ]


@pytest.mark.parametrize(("at", "silent"), [("written", False), ("after", True)])
async def test_after_a_kill_the_text_is_told_again_unless_it_is_an_event_already(
    connection: Connection, conninfo: str, start: Start, at: str, silent: bool
) -> None:
    await gates(connection)
    await open_gates(connection, *{"before", "middle", "written", "after"} - {at})
    (run_id,) = await enqueue(connection, task="tell", queue="partials")
    first = start()
    await until_here(connection, at, 1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    async with listening(conninfo, CHANNEL) as heard:
        start()
        await until_here(connection, at, 2)
        await open_gates(connection, at)
        await until_ended(connection, run_id)
        await connection.execute(f"notify \"{CHANNEL}\", 'x'".encode())
        found = await parts(heard)
    whole = "".join(TOKENS)
    assert text_of(found) == ("" if silent else whole.upper())
    assert await rows(connection, "select data->>'text' from event where type = 'assistant.message'") == [
        whole if silent else whole.upper()
    ]
    assert await value(connection, "select state from run_history where id = %s", run_id) == "succeeded"


async def test_a_text_that_fails_is_no_event_and_tried_again_the_same_stream(
    app: App, work: Work, connection: Connection, conninfo: str
) -> None:
    calls = 0

    @app.workflow(name="stumble", queue="partials")
    async def stumble(run: Run) -> None:
        async def speak() -> None:
            nonlocal calls
            calls += 1
            async with run.stream("answer") as out:
                out.write("so ")
                await asyncio.sleep(0.1)
                if calls == 1:
                    raise ConnectionError("the model is gone")
                out.write("be it")

        await run.step("speak", speak, retry=2)

    async with listening(conninfo, CHANNEL) as heard:
        await stumble.enqueue_in(connection)
        await work(app)
        await connection.execute(f"notify \"{CHANNEL}\", 'x'".encode())
        found = await parts(heard)
    assert [(part["data"]["offset"], part["data"]["text"]) for part in found] == [(0, "so "), (0, "so "), (3, "be it")]
    assert {part["data"]["stream"] for part in found} == {"speak/answer"}
    assert await rows(connection, "select data->>'text' from event where type = 'answer'") == ["so be it"]


async def test_a_text_above_an_events_size_is_refused_as_it_is_written(
    app: App, work: Work, connection: Connection
) -> None:
    refused: list[str] = []

    @app.workflow(name="ramble", queue="partials")
    async def ramble(run: Run) -> None:
        async with run.stream("answer", name="long") as out:
            for _ in range(8):
                out.write("ü" * 16_000)
            with pytest.raises(TooLarge) as error:
                out.write("ü" * 16_000)
            refused.append(str(error.value))
        with pytest.raises(ValueError, match="not open"):
            out.write("late")

    await ramble.enqueue_in(connection)
    await work(app)
    assert "limit is 262,144" in refused[0]
    assert await rows(connection, "select data->>'text' from event where type = 'answer'") == ["ü" * 128_000]


async def test_long_texts_are_split_between_characters_and_stay_in_order(
    connection: Connection, conninfo: str, pool: Pool
) -> None:
    (run,) = await running(connection)
    whole = "".join(chr(0x1F600 + number % 50) + '"\n' for number in range(20_000))
    async with listening(conninfo, CHANNEL) as heard:
        sender = PartialSender(pool)
        text = PartialText(sender, run, "answer", "s")
        text.write(whole)
        await text.sent()
        for number in range(600):
            sender.send("acme", "case-7", "count", str(number))
        await sender.aclose()
        async with pool.connection() as connection:
            await connection.execute(f"notify \"{CHANNEL}\", 'x'".encode())
        found = await parts(heard)
    assert text_of([part for part in found if part["type"] == "answer"]) == whole
    assert [part["data"] for part in found if part["type"] == "count"] == list(range(600))


async def test_an_attempt_that_is_over_shows_nothing_more_and_silences_nobody_else(
    connection: Connection, conninfo: str, pool: Pool
) -> None:
    await enqueue(connection, session_id="s")
    first_worker = await new_worker(connection)
    (stalled,) = await claim(connection, worker=first_worker)
    async with listening(conninfo, CHANNEL) as heard:
        sender = PartialSender(pool)
        old = PartialText(sender, stalled, "answer", "s")
        old.write("Good ")
        await old.sent()
        await connection.execute("select unregister_worker(%s)", [first_worker])
        (running_now,) = await claim(connection)
        new = PartialText(sender, running_now, "answer", "s")
        for token in "aft", "er", "noon":
            old.write("mor")
            new.write(token)
            sender.send("default", "s", "answer", f'"{token}"')
            await old.sent()
            await new.sent()
        await sender.aclose()
        await connection.execute(f"notify \"{CHANNEL}\", 'x'".encode())
        found = await parts(heard)
    texts = [part["data"] if isinstance(part["data"], str) else part["data"]["text"] for part in found]
    assert texts == ["Good ", "aft", "aft", "er", "er", "noon", "noon"]


async def test_what_is_written_while_a_round_is_on_its_way_is_sent_too(
    connection: Connection, conninfo: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = await running(connection)
    real = partial_sender.send_partials
    sender = PartialSender(pool)
    text = PartialText(sender, run, "answer", "s")

    async def send_partials(*arguments: Any) -> list[bool]:
        if len(written) == 1:
            written.append("second")
            text.write("second")
        return await real(*arguments)

    written = ["first "]
    monkeypatch.setattr(partial_sender, "send_partials", send_partials)
    async with listening(conninfo, CHANNEL) as heard:
        text.write("first ")
        async with asyncio.timeout(10):
            await text.sent()
        async with pool.connection() as connection:
            await connection.execute(f"notify \"{CHANNEL}\", 'x'".encode())
        assert text_of(await parts(heard)) == "first second"
    await sender.aclose()


async def test_the_first_part_goes_at_once_and_what_comes_in_the_interval_goes_together(
    connection: Connection, conninfo: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = await running(connection)
    monkeypatch.setattr(partial_sender, "INTERVAL", 0.5)
    sender = PartialSender(pool)
    text = PartialText(sender, run, "answer", "s")
    async with listening(conninfo, CHANNEL) as heard:
        text.write("0")
        first = json.loads((await heard.get())[1].partition(" ")[2])["data"]
        for number in range(1, 100):
            text.write(f" {number}")
            await asyncio.sleep(0.002)
        await sender.aclose()
        async with pool.connection() as connection:
            await connection.execute(f"notify \"{CHANNEL}\", 'x'".encode())
        found = await parts(heard)
    assert (first["offset"], first["text"]) == (0, "0")
    assert "".join(part["data"]["text"] for part in found) == "".join(f" {number}" for number in range(1, 100))
    assert len(found) < 20
