"""`POST /v1/runs` without Litestar's machinery, which took more of its time than all else: 105 of 200 µs.

Only the way is another. Keys, bodies, the creation itself, refusals and figures are the functions that the documented
handler in `runs.py` comes to as well, and a request that is unusual by its head is left to that handler.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from howdah.app.api.auth import authenticate
from howdah.app.api.bodies import decode_body
from howdah.app.api.metrics import Metrics, begin
from howdah.app.api.new_runs import KEY_CHARACTERS, MAX_KEY, NewRunBody, create_run
from howdah.app.api.problems import MEDIA_TYPE, Problem, problem_of
from howdah.app.api.run_reads import Run
from howdah.app.api.traceparent import traceparent_of
from howdah.app.composition import Resources

PATH = "/v1/runs"
JSON = "application/json"

_PLAIN_HOST = re.compile(r"[\w.:\[\]-]*", re.ASCII)
_PLAIN_KEY = re.compile(KEY_CHARACTERS)


def open_short_way(app: Litestar) -> None:
    """Let `app` answer ordinary requests for a new run here: after its hooks, which count them as they count all."""
    long_way = app.asgi_handler

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == PATH and scope["type"] == ScopeType.HTTP and scope["method"] == "POST":
            resources: Resources = app.state.resources
            # Reversed, so that of a header that came twice the first counts, as it does elsewhere.
            backwards = reversed(list(scope["headers"]))
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in backwards}
            if _is_ordinary(headers, resources.settings.max_body_bytes):
                begin(scope)
                scope["path_template"] = PATH
                content, status, more = await _respond(headers, receive, resources, app.state.metrics)
                await _send(send, content, status, more)
                return
        await long_way(scope, receive, send)

    app.asgi_handler = answer


def _is_ordinary(headers: Mapping[str, str], max_body: int) -> bool:
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
        problem, more = problem_of(error, PATH)
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
