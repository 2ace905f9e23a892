"""Two requests that come by the thousand, without Litestar's machinery, which took half of their time: `POST /v1/runs`,
and the GET that streams a session, with which all clients of a process that stopped come back at the same time.

Only the way is another. Keys, bodies, what is done, refusals and figures are the functions that the documented handlers
come to as well, and a request that is unusual by its head is left to those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Litestar, Request
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.types import HTTPScope, Receive, Scope, Send

from howdah.app.api.auth import authenticate
from howdah.app.api.bodies import decode_body
from howdah.app.api.metrics import Metrics, begin
from howdah.app.api.new_runs import KEY_CHARACTERS, MAX_KEY, NewRunBody, create_run
from howdah.app.api.problems import MEDIA_TYPE, Problem, problem_of
from howdah.app.api.run_reads import Run
from howdah.app.api.stream_tokens import authenticate_reader
from howdah.app.api.streams import MAX_LAST_ID, open_stream, render_to_reader
from howdah.app.api.traceparent import traceparent_of
from howdah.app.composition import Resources
from howdah.app.realtime.frames import EVENT_STREAM

RUNS = "/v1/runs"
EVENTS = "/v1/sessions/{session_id}/events"
JSON = "application/json"

_PLAIN_HOST = re.compile(r"[\w.:\[\]-]*", re.ASCII)
_PLAIN_KEY = re.compile(KEY_CHARACTERS)
_PLAIN_EVENTS = re.compile(r"/v1/sessions/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/events")
# Nothing in it is escaped, and nothing says which events.
_PLAIN_QUERY = re.compile(rb"(token=[\w.-]*)?&?(last_event_id=[\w-]{0,%d})?" % MAX_LAST_ID)


def open_short_ways(app: Litestar) -> None:
    """Let `app` answer ordinary requests of these here: after its hooks, which count them as they count all."""
    long_way = app.asgi_handler

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            resources: Resources = app.state.resources
            if scope["method"] == "POST" and scope["path"] == RUNS:
                headers = _headers(scope)
                if _has_ordinary_body(headers, resources.settings.max_body_bytes):
                    begin(scope)
                    scope["path_template"] = RUNS
                    content, status, more = await _respond(headers, receive, resources, app.state.metrics)
                    await _send(send, content, status, more)
                    return
            elif scope["method"] == "GET" and (path := _PLAIN_EVENTS.fullmatch(scope["path"])) is not None:
                headers = _headers(scope)
                if _asks_for_all_that_comes(headers, scope["query_string"]):
                    begin(scope)
                    scope["path_template"] = EVENTS
                    await _stream(path[1], headers.get("last-event-id"), resources, scope, receive, send)
                    return
        await long_way(scope, receive, send)

    app.asgi_handler = answer


def _headers(scope: HTTPScope) -> dict[str, str]:
    """By their names in lower case; of one that came twice the first, as it counts elsewhere."""
    backwards = reversed(list(scope["headers"]))
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in backwards}


async def _stream(
    session_id: str, last_id: str | None, resources: Resources, scope: HTTPScope, receive: Receive, send: Send
) -> None:
    request: Request[Any, Any, State] = Request(scope, receive, send)
    try:
        reader = await authenticate_reader(request, resources)
        reader.check(session_id)
        last_id = last_id or request.query_params.get("last_event_id")
        response = await open_stream(request, resources, reader, [session_id], None, last_id)
    except Exception as error:
        response = render_to_reader(request, error)
    await response.to_asgi_response(None, request)(scope, receive, send)


def _asks_for_all_that_comes(headers: Mapping[str, str], query: bytes) -> bool:
    """Whether a head asks for a stream, from somewhere on, and has nothing that Litestar would refuse."""
    return (
        EVENT_STREAM in headers.get("accept", "")
        and "transfer-encoding" not in headers
        and "content-length" not in headers
        and len(headers.get("last-event-id", "")) <= MAX_LAST_ID
        and _PLAIN_QUERY.fullmatch(query) is not None
        and _PLAIN_HOST.fullmatch(headers.get("host", "")) is not None
    )


def _has_ordinary_body(headers: Mapping[str, str], max_body: int) -> bool:
    """Whether a head has nothing that Litestar would refuse: its host, its key, the length of its body."""
    key = headers.get("idempotency-key")
    return (
        "transfer-encoding" not in headers
        and 0 < int(headers.get("content-length", 0)) <= max_body
        and (key is None or (len(key) <= MAX_KEY and _PLAIN_KEY.match(key) is not None))
        and _PLAIN_HOST.fullmatch(headers.get("host", "")) is not None
    )


async def _respond(
    headers: Mapping[str, str], receive: Receive, resources: Resources, metrics: Metrics
) -> tuple[Run | Problem, int, dict[str, str]]:
    try:
        caller = await authenticate(headers, resources)
        data = decode_body(await _read(receive), NewRunBody)
        key, traceparent = headers.get("idempotency-key"), traceparent_of(headers)
        return await create_run(data, caller, key, resources, metrics, traceparent)
    except Exception as error:
        problem, more = problem_of(error, RUNS)
        return problem, problem.status, more


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError("the client left before its body was here")
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def _send(send: Send, content: Run | Problem, status: int, more: Mapping[str, str]) -> None:
    body = msgspec.json.encode(content)
    headers = {
        "content-type": MEDIA_TYPE if isinstance(content, Problem) else JSON,
        "content-length": str(len(body)),
        **more,
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
