"""The response that is a stream: a bare ASGI one. With sse-starlette's, 10,000 clients take more memory than they may:
see `idle_10000` in the benchmarks. Its frames are encoded as sse-starlette encodes them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, Response
from litestar.types import Receive, Scope, Send

from howdah.app.realtime import frames
from howdah.app.realtime.admission import Place
from howdah.app.realtime.hub import Hub
from howdah.app.realtime.reader import Reader
from howdah.app.realtime.rounds import SLOW_SECONDS

HEADERS = {"Vary": "Accept", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(Response[None]):
    """Streams what a reader gets until that ends, the client goes, or the process stops."""

    def __init__(self, hub: Hub, reader: Reader, place: Place, start: bytes) -> None:
        super().__init__(content=None, media_type=frames.EVENT_STREAM, headers=HEADERS)
        self._hub = hub
        self._reader = reader
        self._place = place
        self._start = start

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **_: Any) -> Any:
        """The ASGI application that answers."""
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader, hub = self._reader, self._hub
        loop = asyncio.get_running_loop()
        hub.add(reader)
        leaving = asyncio.create_task(_until_gone(receive, reader))
        try:
            await _start(send)
            await _send(send, self._start)
            while chunk := await reader.next():
                reader.sending_since = loop.time()
                await _send(send, chunk)
                reader.sending_since = 0.0
                hub.make_room(reader)
            await _send(send, self._last(), more=False)
        finally:
            leaving.cancel()
            hub.remove(reader)
            self._place.leave()

    def _last(self) -> bytes:
        match self._reader.end:
            case "closed":
                return frames.end({s.place_of[1]: s.position for s in self._reader.seats}, self._reader.id)
            case "slow":
                return frames.slow(SLOW_SECONDS)
            case _:
                return frames.stopping(self._hub.readers)


class SentAway(Response[None]):
    """All that an EventSource gets for which there is no room."""

    def __init__(self) -> None:
        super().__init__(content=None, media_type=frames.EVENT_STREAM, headers=HEADERS)

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **_: Any) -> Any:
        """The ASGI application that answers."""
        return _send_away


async def _send_away(scope: Scope, receive: Receive, send: Send) -> None:
    await _start(send)
    await _send(send, frames.full(), more=False)


async def _until_gone(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.drop()
    reader.finish("stopping")


async def _start(send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    headers.append((b"content-type", f"{frames.EVENT_STREAM}; charset=utf-8".encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
