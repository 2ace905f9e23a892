"""The short ways to a new run and a stream: for ordinary requests only, and nobody can tell by the answer.

With a slash at its end the path is Litestar's alone, so the same request there shows what the documented handler says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest

from tests.app.api.conftest import MAX_BODY, Keys, Running

SHORT, LONG = "/v1/runs", "/v1/runs/"
ARGS: dict[str, Any] = {"id": 7, "note": 'naïve 😀 \\ "'}
BODY: dict[str, Any] = {"task": "invoice.send", "args": ARGS}
WHOLE = json.dumps(BODY).encode()
LATER = datetime(2100, 1, 1, tzinfo=UTC).isoformat()

Routed = Callable[[], int]


@pytest.fixture
def routed(running: Running) -> Routed:
    """How many requests Litestar has looked for a handler for."""

    def count() -> int:
        found = running.server.app.asgi_router.handle_routing.cache_info()
        number: int = found.hits + found.misses
        return number

    return count


def told(response: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """All that an answer says, but for the id of a new run and the time."""
    headers, body = dict(response.headers), response.json()
    headers.pop("date")
    if response.status_code == 201:
        run_id = body.pop("id")
        assert headers.pop("location") == f"/v1/runs/{run_id}"
        assert datetime.fromisoformat(body.pop("created_at")).tzinfo is not None
        # As long as this.
        headers.pop("content-length")
    return response.status_code, headers, body


async def test_both_ways_answer_alike(api: httpx.AsyncClient, task: str, routed: Routed) -> None:
    cases: list[tuple[int, dict[str, Any]]] = [
        (201, {}),
        (201, {"session": "case-7", "priority": -5, "queue": "slow", "run_at": LATER, "deadline": LATER}),
        (201, {"retry": {"max_attempts": 3}}),
        (404, {"task": "invoice.sent"}),
        (422, {"args": {"id": "7", "surplus": 1}}),
        (422, {"args": []}),
        (422, {"priority": "high"}),
        (422, {"order": "skip"}),
        (422, {"args": {"id": 7, "note": "\0"}}),
        (422, {"args": {"id": 7, "note": float("nan")}}),
    ]
    for status, fields in cases:
        content = json.dumps(BODY | fields)
        before = routed()
        short = await api.post(SHORT, content=content)
        assert routed() == before, fields
        long = await api.post(LONG, content=content)
        assert routed() == before + 1, fields
        assert short.status_code == status, short.text
        assert told(short) == told(long)


async def test_both_ways_refuse_a_broken_body_alike(api: httpx.AsyncClient, task: str, routed: Routed) -> None:
    for body in (b"{", b"\xff", b"[]", b"7", b'{"task": "invoice.send", "args": ' + b"[" * 20_000):
        long, before = await api.post(LONG, content=body), routed()
        assert told(await api.post(SHORT, content=body)) == told(long)
        assert long.status_code >= 400
        assert routed() == before, body[:40]


async def test_both_ways_find_the_run_that_is_there_already(
    api: httpx.AsyncClient, task: str, stored: Callable[[], int]
) -> None:
    headers = {"Idempotency-Key": "k-1"}
    created = await api.post(SHORT, json=BODY, headers=headers)
    again = [await api.post(path, json=BODY, headers=headers) for path in (SHORT, LONG)]
    assert (created.status_code, again[0].status_code) == (201, 200)
    assert told(again[0]) == told(again[1])
    assert again[0].json() == created.json()
    other = [await api.post(path, json=BODY | {"priority": 1}, headers=headers) for path in (SHORT, LONG)]
    assert told(other[0]) == told(other[1])
    conflict = [await api.post(path, json={"task": "invoice.void"}, headers=headers) for path in (SHORT, LONG)]
    assert conflict[0].status_code == 422
    assert told(conflict[0]) == told(conflict[1])
    assert stored() == 2, "a run and its key"


async def test_both_ways_refuse_a_full_queue_and_a_second_of_its_kind_alike(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    assert (await api.post(SHORT, json=BODY | {"unique_key": "one"})).status_code == 201
    twice = [await api.post(path, json=BODY | {"unique_key": "one"}) for path in (SHORT, LONG)]
    assert twice[0].status_code == 409
    assert told(twice[0]) == told(twice[1])
    db.execute("""select set_queue_limits('mail', '{"max_queued": 1}')""")
    full = [await api.post(path, json=BODY) for path in (SHORT, LONG)]
    assert (full[0].status_code, full[0].headers["retry-after"]) == (429, "1")
    assert told(full[0]) == told(full[1])


async def test_both_ways_ask_for_the_same_key(
    client: httpx.AsyncClient, keys: Keys, task: str, stored: Callable[[], int]
) -> None:
    wrong: list[tuple[int, list[tuple[str, str]]]] = [
        (401, []),
        (401, [("Authorization", f"Basic {keys.acme}")]),
        (401, [("Authorization", f"Bearer {keys.acme[:-1]}")]),
        # Of two keys the first counts.
        (401, [("Authorization", "Bearer none"), ("Authorization", f"Bearer {keys.acme}")]),
        (404, [("Authorization", f"Bearer {keys.acme}"), ("Howdah-Tenant", "other")]),
        (400, [("Authorization", f"Bearer {keys.admin}")]),
        (404, [("Authorization", f"Bearer {keys.admin}"), ("howdah-tenant", "nobody")]),
    ]
    for status, headers in wrong:
        short, long = [await client.post(path, json=BODY, headers=headers) for path in (SHORT, LONG)]
        assert short.status_code == status
        assert told(short) == told(long)
    assert stored() == 0
    named = {"Authorization": f"Bearer {keys.admin}", "Howdah-Tenant": "acme"}
    assert (await client.post(SHORT, json=BODY, headers=named)).json()["tenant"] == "acme"


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]
        await asyncio.sleep(0.005)


async def test_a_body_that_comes_in_parts_is_read_to_its_end(api: httpx.AsyncClient, task: str, routed: Routed) -> None:
    body = json.dumps(BODY | {"args": {"id": 7, "note": "x" * 60_000}}).encode()
    before = routed()
    response = await api.post(SHORT, content=_parts(body), headers={"Content-Length": str(len(body))})
    assert len(response.json()["args"]["note"]) == 60_000
    assert routed() == before


async def test_an_unusual_head_is_litestars_affair(api: httpx.AsyncClient, task: str, routed: Routed) -> None:
    cases: list[tuple[int, dict[str, str], bytes]] = [
        (422, {}, b""),
        (413, {}, b'{"task": "' + b"x" * MAX_BODY + b'"}'),
        (400, {"Idempotency-Key": "a b"}, WHOLE),
        (400, {"Idempotency-Key": ""}, WHOLE),
        (400, {"Idempotency-Key": "x" * 256}, WHOLE),
    ]
    for status, headers, content in cases:
        before = routed()
        response = await api.post(SHORT, content=content, headers=headers)
        assert response.status_code == status, response.text
        assert routed() == before + 1


async def test_a_host_that_no_host_can_have_is_refused(
    api: httpx.AsyncClient, task: str, stored: Callable[[], int]
) -> None:
    short, long = [await api.post(path, json=BODY, headers={"Host": "a b"}) for path in (SHORT, LONG)]
    assert (short.status_code, short.json()["detail"]) == (400, "Invalid host header")
    assert short.json() | {"instance": LONG} == long.json()
    assert stored() == 0


async def test_a_body_without_a_length_is_litestars_affair(api: httpx.AsyncClient, task: str, routed: Routed) -> None:
    before = routed()
    response = await api.post(SHORT, content=_parts(WHOLE))
    assert response.status_code == 201
    assert routed() == before + 1


async def test_a_client_that_leaves_in_the_middle_of_its_body_creates_nothing(
    api: httpx.AsyncClient, task: str, keys: Keys, stored: Callable[[], int]
) -> None:
    _, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    head = f"POST {SHORT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {keys.acme}\r\nContent-Length: {len(WHOLE) + 1}"
    writer.write(head.encode() + b"\r\n\r\n" + WHOLE)
    await writer.drain()
    # So that what came is read before the end is seen.
    await asyncio.sleep(0.1)
    writer.close()
    await writer.wait_closed()
    assert (await api.post(SHORT, json=BODY)).status_code == 201
    assert stored() == 1


EVENTS = "/v1/sessions/case-7/events"
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def session(db: psycopg.Connection, keys: Keys) -> str:
    """A session with three events."""
    db.execute("select create_session('acme', 'case-7')")
    for kind in ("a", "b", "c"):
        db.execute("select append_event('acme', 'case-7', %s)", [kind])
    return "case-7"


async def streamed(
    client: httpx.AsyncClient, path: str, headers: dict[str, str], params: dict[str, str]
) -> tuple[int, dict[str, str], str]:
    """Status, headers and what comes up to the third event, or all that comes; but for times."""
    async with client.stream("GET", path, headers={**STREAM, **headers}, params=params) as response:
        text = ""
        async for some in response.aiter_text():
            text += some
            if text.count('"type":"') == 3:
                break
    told_headers = {name: value for name, value in response.headers.items() if name not in ("date", "retry-after")}
    lines = [line for line in text.split("\n") if not line.startswith("retry:")]
    return response.status_code, told_headers, "\n".join(lines)


async def test_both_ways_stream_alike(
    api: httpx.AsyncClient, keys: Keys, db: psycopg.Connection, session: str, routed: Routed
) -> None:
    token = (await api.post("/v1/stream-tokens", json={"session": session})).json()["token"]
    db.execute("select create_session('acme', 'case-8')")
    other = (await api.post("/v1/stream-tokens", json={"session": "case-8"})).json()["token"]
    async with api.stream("GET", EVENTS, headers=STREAM) as response:
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                first = line.removeprefix("id: ")
                break
    cases: list[tuple[int, str, dict[str, str], dict[str, str]]] = [
        (200, EVENTS, {}, {}),
        (200, EVENTS, {"Accept": "text/event-stream, */*"}, {}),
        (200, EVENTS, {"Last-Event-ID": first}, {}),
        (200, EVENTS, {}, {"last_event_id": first}),
        (200, EVENTS, {"Last-Event-ID": "garbage"}, {"last_event_id": first}),
        (200, EVENTS, {"Authorization": ""}, {"token": token}),
        (403, EVENTS, {"Authorization": ""}, {"token": other}),
        (401, EVENTS, {"Authorization": ""}, {"token": token[:-1]}),
        (401, EVENTS, {"Authorization": ""}, {}),
        (404, "/v1/sessions/case-9/events", {}, {}),
        (404, EVENTS, {"Authorization": f"Bearer {keys.other}"}, {}),
    ]
    for status, path, headers, params in cases:
        before = routed()
        short = await streamed(api, path, headers, params)
        assert routed() == before, (path, headers, params)
        long = await streamed(api, f"{path}/", headers, params)
        assert routed() == before + 1
        assert short[0] == status
        assert short == long


async def test_both_ways_say_that_a_session_is_over(
    api: httpx.AsyncClient, db: psycopg.Connection, session: str
) -> None:
    db.execute("select close_session('acme', 'case-7')")
    async with api.stream("GET", EVENTS, headers=STREAM) as response:
        whole = "".join([some async for some in response.aiter_text()])
    assert "event: howdah.end" in whole
    last = whole.rpartition("id: ")[2].split("\n")[0]
    short, long = [await api.get(path, headers={**STREAM, "Last-Event-ID": last}) for path in (EVENTS, f"{EVENTS}/")]
    assert (short.status_code, short.content) == (204, b"")
    assert dict(short.headers) | {"date": ""} == dict(long.headers) | {"date": ""}


async def test_a_stream_of_some_events_only_is_litestars_affair(
    api: httpx.AsyncClient, session: str, routed: Routed
) -> None:
    cases: list[tuple[int, dict[str, str], dict[str, str]]] = [
        (200, {}, {"type": "b"}),
        (200, {}, {"after": "1"}),
        (404, {}, {"consumer": "mailer"}),
        (400, {}, {"last_event_id": "x" * 801}),
        (400, {"Last-Event-ID": "x" * 801}, {}),
        (200, {"Accept": "application/json"}, {}),
    ]
    for status, headers, params in cases:
        before = routed()
        async with api.stream("GET", EVENTS, headers={**STREAM, **headers}, params=params) as response:
            assert response.status_code == status, params
        assert routed() == before + 1


async def test_a_stream_that_came_the_short_way_is_counted_as_one(
    api: httpx.AsyncClient, session: str, routed: Routed
) -> None:
    for path in (EVENTS, f"{EVENTS}/"):
        await streamed(api, path, {}, {})
    figures = (await api.get("/metrics")).text
    route = 'howdah_http_request_seconds_count{method="GET",route="/v1/sessions/{session_id}/events",status="200"}'
    assert f"{route} 2.0" in figures
