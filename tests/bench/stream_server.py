"""One process that sends what is posted to it to every client that listens.

``python -m tests.bench.stream_server KIND FD``, where KIND is `sse-starlette` or `bare` and FD a socket that listens.
The answer to a post is the time at which it had been read, in ns of Unix.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from sse_starlette import EventSourceResponse

from howdah.app.collector import relax_collector

PRIMED = b"retry: 3000\nid: 0\n\n"


class Crowd:
    """The clients that listen now, each with a queue."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[bytes]] = set()

    def tell(self, frame: bytes) -> None:
        for queue in self._queues:
            queue.put_nowait(frame)

    async def frames(self) -> AsyncIterator[bytes]:
        """What one client gets."""
        queue = asyncio.Queue[bytes]()
        self._queues.add(queue)
        try:
            yield PRIMED
            while True:
                yield await queue.get()
        finally:
            self._queues.remove(queue)


def make_app(kind: str) -> Any:
    """An ASGI application: GET listens, POST tells all."""
    crowd = Crowd()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "POST":
            message = await receive()
            now = time.time_ns()
            crowd.tell(message["body"])
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": str(now).encode()})
        elif kind == "sse-starlette":
            await EventSourceResponse(crowd.frames(), sep="\n")(scope, receive, send)
        else:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
            )
            async for frame in crowd.frames():
                await send({"type": "http.response.body", "body": frame, "more_body": True})

    return app


def main() -> None:
    kind, fd = sys.argv[1:]
    config = uvicorn.Config(
        make_app(kind),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        backlog=2048,
        log_level="warning",
        access_log=False,
        server_header=False,
    )
    relax_collector()
    uvicorn.Server(config).run([socket.socket(fileno=int(fd))])


if __name__ == "__main__":
    main()
