"""A text that a worker process writes is seen as it grows by clients of an API process; so are partials of others."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any

import httpx
import psycopg
import pytest
from httpx_sse import connect_sse

from howdah.sql.errors import BadValue, SessionClosed, StaleAttempt, TooLarge, UnknownSession, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.stream import partial_sender
from tests.app.api_servers import PATIENCE, api_process, api_thread, client_for
from tests.jobs.partials_app import TOKENS

ROOT = Path(__file__).parents[3]
WHOLE = "".join(TOKENS)


@contextmanager
def worker(conninfo: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "tests.jobs.partials_app", conninfo], cwd=ROOT)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def stream(client: httpx.Client, session: str) -> Queue[tuple[str, dict[str, Any]]]:
    """(id, event) of what a client of the session's stream gets; the stream stands when this returns."""
    seen: Queue[tuple[str, dict[str, Any]]] = Queue()
    primed: Queue[None] = Queue()

    def read() -> None:
        headers = {"Accept": "text/event-stream"}
        last = ""
        try:
            with connect_sse(client, "GET", f"/v1/sessions/{session}/events", headers=headers) as source:
                primed.put(None)
                for event in source.iter_sse():
                    if event.event == "message" and event.data:
                        # A partial has no id of its own: the client keeps the one before.
                        seen.put(("" if event.id == last else event.id, event.json()))
                    last = event.id
        except httpx.TransportError:
            pass  # The API has gone: the test is over.

    Thread(target=read, daemon=True).start()
    primed.get(timeout=PATIENCE)
    return seen


def until_event(seen: Queue[tuple[str, dict[str, Any]]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The partials before the next durable event, and that."""
    partials: list[dict[str, Any]] = []
    while True:
        identity, event = seen.get(timeout=PATIENCE)
        if not event.get("partial"):
            assert identity
            return partials, event
        assert not identity
        partials.append(event)


def until(db: psycopg.Connection, query: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not db.execute(f"select exists ({query})".encode()).fetchone()[0]:  # type: ignore[index]
        assert time.monotonic() < deadline, query
        time.sleep(0.01)


def test_tokens_of_another_process_are_seen_before_the_run_ends_and_who_comes_late_gets_the_whole(
    database_url: str, conninfo: str, db: psycopg.Connection, acme_key: str
) -> None:
    db.execute("create table public.here (name text, attempt integer)")
    db.execute("create table public.gate (name text)")
    db.execute("insert into public.gate values ('after')")
    db.execute("select create_session('acme', 'case-7')")
    db.execute("select * from enqueue_run('acme', 'tell', '{}', p_queue => 'partials', p_session => 'case-7')")
    with api_process(database_url) as api, worker(conninfo), client_for(api.url, acme_key) as client:
        seen = stream(client, "case-7")
        until(db, "select from public.here where name = 'before'")
        db.execute("insert into public.gate values ('before')")
        half = "".join(TOKENS[: len(TOKENS) // 2])
        text, parts = "", 0
        while text != half:  # The run stands at its second gate.
            _, event = seen.get(timeout=PATIENCE)
            assert event["partial"]
            assert event["data"]["offset"] == len(text)
            text += event["data"]["text"]
            parts += 1
        assert db.execute("select state from run").fetchone() == ("running",)
        assert db.execute("select count(*) from event").fetchone() == (0,)
        db.execute("insert into public.gate values ('middle'), ('written')")
        rest, whole = until_event(seen)
        for event in rest:
            assert event["data"]["offset"] == len(text)
            text += event["data"]["text"]
        assert text == whole["data"]["text"] == WHOLE
        assert whole["type"] == "assistant.message"
        assert {event["data"]["stream"] for event in rest} == {whole["data"]["stream"]}
        assert parts + len(rest) < len(TOKENS) / 5
        until(db, "select from run_history")
        partials, event = until_event(stream(client, "case-7"))
        assert (partials, event) == ([], whole)
        assert db.execute("select count(*) from event where type = 'assistant.message'").fetchone() == (1,)


def test_partials_of_other_producers_are_seen_in_order_and_not_kept(
    database_url: str, db: psycopg.Connection, acme_key: str
) -> None:
    db.execute("select create_session('acme', 'case-7')")
    with api_process(database_url) as api, client_for(api.url, acme_key) as client:
        seen = stream(client, "case-7")
        # The stream stands, and is fed: only then a partial finds it.
        db.execute("select append_event('acme', 'case-7', 'began')")
        assert until_event(seen)[1]["type"] == "began"
        for number in range(30):
            answer = client.post("/v1/sessions/case-7/partials", json={"type": "answer", "data": {"offset": number}})
            assert (answer.status_code, answer.content) == (202, b"")
        got = [seen.get(timeout=PATIENCE)[1] for _ in range(30)]
        assert [event["data"]["offset"] for event in got] == list(range(30))
        assert {(event["type"], event["partial"]) for event in got} == {("answer", True)}
        db.execute("""select send_partial('acme', 'case-7', 'answer', '{"text": "by SQL"}')""")
        assert seen.get(timeout=PATIENCE)[1]["data"] == {"text": "by SQL"}
        too_large = client.post("/v1/sessions/case-7/partials", json={"type": "answer", "data": "x" * 8_000})
        assert too_large.status_code == 413
        assert client.post("/v1/sessions/nowhere/partials", json={"type": "answer"}).status_code == 404
        db.execute("select close_session('acme', 'case-7')")
        assert client.post("/v1/sessions/case-7/partials", json={"type": "answer"}).status_code == 409
    assert db.execute("select type from event").fetchall() == [("began",)]


@pytest.mark.parametrize(
    ("session", "type", "data", "error"),
    [
        ("case-7", "t", '"' + "x" * 8_000 + '"', TooLarge),
        ("case-7", "", "{}", BadValue),
        ("nowhere", "t", "{}", UnknownSession),
        ("run:7", "t", "{}", UnknownSession),
        ("over", "t", "{}", SessionClosed),
    ],
)
def test_send_partial_says_what_is_wrong(
    db: psycopg.Connection, session: str, type: str, data: str, error: type[Exception]
) -> None:
    db.execute("select create_session('default', 'case-7'), create_session('default', 'over')")
    db.execute("select close_session('default', 'over')")
    with pytest.raises(psycopg.Error) as refused:
        db.execute("select send_partial('default', %s, %s, %s::jsonb)", [session, type, data])
    assert isinstance(from_psycopg(refused.value), error)


def test_a_runs_own_session_takes_partials_before_its_first_event(db: psycopg.Connection) -> None:
    (run_id,) = db.execute("select run_id from enqueue_run('default', 't')").fetchone()  # type: ignore[misc]
    db.execute("select send_partial('default', %s, 't')", [f"run:{run_id}"])


def test_an_attempt_sends_partials_until_it_is_over(db: psycopg.Connection) -> None:
    (run_id,) = db.execute("select run_id from enqueue_run('default', 't')").fetchone()  # type: ignore[misc]
    (worker,) = db.execute("select worker_id from register_worker('w', '{default}')").fetchone()  # type: ignore[misc]
    db.execute("select claim_runs(%s, '{default}', 1)", [worker])
    send = "select send_partial('default', %s, 't', p_run => %s, p_attempt => %s)"
    session = f"run:{run_id}"
    db.execute(send, [session, run_id, 1])
    for attempt in 2, None:
        with pytest.raises(psycopg.Error) as refused:
            db.execute(send, [session, run_id, attempt])
        assert isinstance(from_psycopg(refused.value), StaleAttempt)
    db.execute("select unregister_worker(%s)", [worker])
    with pytest.raises(psycopg.Error) as refused:
        db.execute(send, [session, run_id, 1])
    assert isinstance(from_psycopg(refused.value), StaleAttempt)


def test_a_partial_for_which_there_is_no_room_is_refused_and_what_was_taken_is_sent(
    database_url: str, db: psycopg.Connection, acme_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = Event()
    sent: list[int] = []

    async def send_partials(_: Connection, payloads: list[str], attempts: list[None]) -> list[bool]:
        """A database that does not answer for a while."""
        while not back.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        sent.extend(json.loads(payload.partition(" ")[2])["data"] for payload in payloads)
        return [True] * len(payloads)

    monkeypatch.setattr(partial_sender, "send_partials", send_partials)
    monkeypatch.setattr(partial_sender, "MAX_WAITING", 3)
    db.execute("select create_session('acme', 'case-7')")
    with api_thread(database_url) as url, client_for(url, acme_key) as client:

        def post(number: int) -> httpx.Response:
            return client.post("/v1/sessions/case-7/partials", json={"type": "answer", "data": number})

        taken = 0
        while (answer := post(taken)).status_code == 202:
            taken += 1
            assert taken <= 4  # One on its way, three wait.
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["type"] == "urn:howdah:problem:partials-full"
        back.set()
        while post(taken).status_code != 202:
            pass
    assert sent == list(range(taken + 1))
