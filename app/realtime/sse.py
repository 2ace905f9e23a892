"""How events look on the wire: as CloudEvents 1.0, and in a text/event-stream that can be left and resumed anywhere.

retry: 2817                 milliseconds, jittered, so that clients do not come back in one instant
id: AQIDBAUAAAAAAAAABw      opaque; primed before the first event, so that even a silent stream can be resumed

id: AQIDBAUAAAAAAAAACA
data: {"specversion":"1.0", …}      unnamed, so that `onmessage` fires; the type is in the CloudEvent

event: howdah.reset         the id that the client sent is not of this stream: it begins again from the first event
event: howdah.end           the session is closed and this was all; a client that comes back gets 204
: alive                     every 15 s, for proxies
"""

from __future__ import annotations

import binascii
import random
import struct
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus

from howdah.app.realtime.hub import Hub, Reader, TooManyReaders
from howdah.sql.stream.calls import Event

# Proxies commonly close a connection on which nothing came for 30 or 60 s.
PING_SECONDS = 15
# A client that takes nothing for so long is cut off; it resumes by its last id.
SEND_SECONDS = 60
RETRY_MS = (1_500, 3_500)
# When a process stops, its clients come back spread over this time, elsewhere.
STOPPING_RETRY_MS = (100, 1_000)
# When a process has all the readers that it takes.
FULL_RETRY_MS = (5_000, 15_000)

EVENT_STREAM = "text/event-stream"
_SEPARATOR = "\n"
_ID = struct.Struct(">BIQ")
_ID_VERSION = 1


# On SIGTERM sse-starlette would cut streams off, from a flag that is the whole interpreter's. Ours end by the hub, each
# with a word to its client.
AppStatus.enable_automatic_graceful_drain = False


class CloudEvent(msgspec.Struct, kw_only=True):
    """A CloudEvent 1.0 in structured JSON. `sequence` is the event's number, zero-padded so that it sorts as text."""

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    time: datetime
    sequence: str
    data: msgspec.Raw
    subject: str | msgspec.UnsetType = msgspec.UNSET
    """What it is about; of a run's event, the run, unless it says otherwise."""
    traceparent: str | msgspec.UnsetType = msgspec.UNSET
    datacontenttype: str = "application/json"


def cloud_event(tenant_id: str, session_id: str, event: Event) -> CloudEvent:
    """An event as the world sees it: `source` and `id` together are unique in the installation."""
    return CloudEvent(
        id=f"{session_id}/{event.seq}",
        source=event.source or f"/tenants/{tenant_id}/sessions/{session_id}",
        type=event.type,
        time=event.created_at,
        sequence=f"{event.seq:020}",
        subject=event.subject or (msgspec.UNSET if event.run_id is None else str(event.run_id)),
        traceparent=event.traceparent or msgspec.UNSET,
        data=msgspec.Raw(event.data.encode()),
    )


def stream_id(tenant_id: str, session_id: str, seq: int) -> str:
    """The `id:` of an event: opaque to clients, and of use in its own session only."""
    packed = _ID.pack(_ID_VERSION, zlib.crc32(f"{tenant_id}/{session_id}".encode()), seq)
    return urlsafe_b64encode(packed).decode().rstrip("=")


def seq_of_stream_id(tenant_id: str, session_id: str, text: str) -> int | None:
    """The number that an `id:` stands for; None if it is not one of this session's."""
    try:
        version, of_session, seq = _ID.unpack(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, struct.error):
        return None
    if version != _ID_VERSION or of_session != zlib.crc32(f"{tenant_id}/{session_id}".encode()):
        return None
    number: int = seq
    return number


class EventStream(Response[None]):
    """A response that streams frames until they end, the client goes, or the process stops."""

    def __init__(self, frames: AsyncIterator[bytes | ServerSentEvent]) -> None:
        super().__init__(content=None, media_type=EVENT_STREAM)
        self._frames = frames

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **_: Any) -> Any:
        """The ASGI application that answers, from sse-starlette."""
        return EventSourceResponse(
            self._frames,
            headers={"Vary": "Accept", "Cache-Control": "no-store"},
            sep=_SEPARATOR,
            ping=PING_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="alive", sep=_SEPARATOR),
            send_timeout=SEND_SECONDS,
        )


async def frames(
    hub: Hub, tenant_id: str, session_id: str, after: int, reset: str | None
) -> AsyncIterator[bytes | ServerSentEvent]:
    """The stream of one session after event number `after`; `reset` says why a client must begin again, if it must."""
    try:
        async with hub.subscribe(tenant_id, session_id, after) as reader:
            yield _control(retry=RETRY_MS, id=stream_id(tenant_id, session_id, after))
            if reset is not None:
                yield _control("howdah.reset", {"detail": reset})
            async for events in reader:
                yield _data(tenant_id, session_id, events)
            yield _last(reader)
    except TooManyReaders:
        yield _control(retry=FULL_RETRY_MS)


def _data(tenant_id: str, session_id: str, events: Iterable[Event]) -> bytes:
    # A batch goes out in one write; JSON text holds no line break.
    return b"".join(
        b"id: %b\ndata: %b\n\n"
        % (
            stream_id(tenant_id, session_id, event.seq).encode(),
            _encoder.encode(cloud_event(tenant_id, session_id, event)),
        )
        for event in events
    )


def _last(reader: Reader) -> ServerSentEvent:
    if reader.end == "closed":
        return _control("howdah.end", {"last_sequence": f"{reader.place[2]:020}"})
    return _control(retry=STOPPING_RETRY_MS)


def _control(
    event: str | None = None,
    data: dict[str, str] | None = None,
    *,
    retry: tuple[int, int] | None = None,
    id: str | None = None,
) -> ServerSentEvent:
    return ServerSentEvent(
        event=event,
        data=None if data is None else _encoder.encode(data).decode(),
        id=id,
        retry=None if retry is None else random.randint(*retry),  # noqa: S311 - spreads load, hides nothing
        sep=_SEPARATOR,
    )


_encoder = msgspec.json.Encoder()
