"""Event streams without a log behind them, by sse-starlette and by nothing at all; on the server that Howdah uses."""

from __future__ import annotations

from tests.bench.system import Gateway

_RUNS = {"fanout_5000": 5_000, "idle_10000": 10_000}
_ASKED = {"server": "uvicorn"}

SYSTEMS = (
    Gateway("sse-starlette", _RUNS, {**_ASKED, "response": "EventSourceResponse, ping 15 s"}, "sse-starlette"),
    Gateway(
        "bare ASGI", _RUNS, {**_ASKED, "response": "messages to the server, no ping, no look at the client"}, "bare"
    ),
)
