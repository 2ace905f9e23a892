"""The author's guide is true: its code is one module, and each of its workflows does what the text says."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from howdah.jobs import App
from howdah.sql.pool import Connection
from howdah.sql.stream.calls import NewEvent, append_events
from tests.jobs.conftest import Work
from tests.jobs.test_waiting import output, send, state
from tests.sql.engine import rows, value
from tests.sql.test_notifier import listening

GUIDE = Path(__file__).parents[2] / "jobs" / "README.md"


@pytest.fixture
def guide() -> Any:
    """The module that the guide's Python blocks make."""
    module = types.ModuleType("guide")
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    sys.modules["guide"] = module  # dataclasses look their module up
    exec(compile("\n\n".join(blocks), str(GUIDE), "exec"), module.__dict__)
    app: App = module.app
    app.periodic_registry.periodic_tasks.clear()
    yield module
    del sys.modules["guide"]


async def test_a_claim_waits_for_its_approval_and_is_decided(guide: Any, work: Work, connection: Connection) -> None:
    run_id = await guide.handle_claim.enqueue_in(connection, claim_id="c-7")
    await work(guide.app)
    assert await state(connection, run_id) == "waiting"
    assert await value(connection, "select kind || ' ' || name from ops.waits") == "signal approval"
    assert await send(connection, run_id, "approval", "approve") == "sent"
    async with asyncio.timeout(20):
        while await state(connection, run_id) != "succeeded":
            await work(guide.app)
    assert await output(connection, run_id) == {"claim_id": "c-7", "approved": True, "score": 36.0}
    assert await value(connection, "select count(*) from run_history where queue = 'scores'") == 4


async def test_a_saga_takes_back_what_it_did(guide: Any, work: Work, connection: Connection) -> None:
    ids = [await guide.book_trip.enqueue_in(connection, city) for city in ("Rome", "Atlantis")]
    await work(guide.app)
    assert [await output(connection, run_id) for run_id in ids] == ["hotel to Rome", "cancelled: sunk"]
    assert await rows(
        connection, "select step from checkpoint where run_id = %s and step !~ '#' order by finished_at", ids[1]
    ) == [
        "flight",
        "cancel flight",
    ]


async def test_money_moves_once(guide: Any, work: Work, connection: Connection) -> None:
    await connection.execute("create table public.account (name text primary key, balance integer)")
    run_id = await guide.pay.enqueue_in(connection, "ann", 5)
    await work(guide.app)
    assert await output(connection, run_id) == 5
    assert await rows(connection, "select * from public.account") == [("ann", -5)]


async def test_an_agent_answers_what_comes(guide: Any, work: Work, connection: Connection) -> None:
    await connection.execute("select create_session('default', 'chat')")
    run_id = await guide.answer.configure(session="chat").enqueue_in(connection, 2)
    for question in ("why?", "how?"):
        await work(guide.app)
        assert await state(connection, run_id) == "waiting"
        await append_events(connection, [NewEvent("default", "chat", "question", f'{{"text": "{question}"}}')])
    await work(guide.app)
    assert await output(connection, run_id) == 2
    answers = "select data->>'text' from event where type = 'answer' order by seq"
    assert await rows(connection, answers) == ["WHY?", "HOW?"]


async def test_a_reply_is_seen_as_it_grows_and_is_one_event(
    guide: Any, work: Work, connection: Connection, conninfo: str
) -> None:
    run_id = await guide.reply.enqueue_in(connection, "who goes there")
    async with listening(conninfo, "howdah.partials") as heard:
        await work(guide.app)
        parts = [json.loads((await heard.get())[1].partition(" ")[2])["data"] for _ in range(heard.qsize())]
    assert "".join(part["text"] for part in parts) == "who! goes! there! "
    assert await output(connection, run_id) == "who! goes! there! "
    assert await rows(connection, "select data from event where type = 'assistant.message'") == [
        {"text": "who! goes! there! ", "stream": "ask/assistant.message"}
    ]


async def test_new_runs_get_the_newest_version(guide: Any, work: Work, connection: Connection) -> None:
    await work(guide.app)
    run_id = await value(
        connection, """select run_id from enqueue_run('default', 'report.write', '{"topic": "bees"}')"""
    )
    await work(guide.app)
    assert await output(connection, run_id) == "OUTLINE OF BEES"
