"""How events look on the wire: as CloudEvents 1.0, in a text/event-stream that can be left and resumed anywhere.

retry: 2817                 milliseconds, jittered, so that clients do not come back in one instant
id: AgECAwQH                opaque; primed before the first event, so that even a silent stream can be resumed

id: AgECAwQI
data: {"specversion":"1.0", …}      unnamed, so that `onmessage` fires; the type is in the CloudEvent

data: {"partial":true, …}   live only, and so without an id: a part of what will be an event
event: howdah.gap           events were dropped by retention before this client saw them; it goes on after them
event: howdah.reset         the id that the client sent is not of this stream: it begins again from the first event
event: howdah.slow          the client takes too little: this is its last event; what it missed is in the log
event: howdah.end           the sessions are closed and this was all; a client that comes back gets 204
: alive                     every 15 s, for proxies; an id alone where the stream's filter has passed over events
"""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import msgspec
from sse_starlette import ServerSentEvent

from howdah.sql.stream.calls import Event

EVENT_STREAM = "text/event-stream"
RETRY_MS = (1_500, 3_500)
# When a process, a tenant or a key has all the streams that it may.
FULL_RETRY_MS = (5_000, 15_000)
# When a process stops, its clients come back elsewhere, so many a second.
STOPPING_RETRY_MS = (100, 1_000)
COME_BACK_A_SECOND = 1_000

ALIVE = b": alive\n\n"


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


def data_line(tenant_id: str, session_id: str, event: Event) -> bytes:
    """An event's line and the empty one that ends it; JSON text holds no line break. Its `id:` goes before."""
    return b"data: %b\n\n" % _encoder.encode(cloud_event(tenant_id, session_id, event))


def start(cursor_id: bytes, *, reset: bool) -> bytes:
    """The first thing a client gets. `reset`: what it had seen does not count."""
    detail = "the id is not one of this stream: it begins from the first event"
    return _control(retry=RETRY_MS, id=cursor_id) + (_control("howdah.reset", {"detail": detail}) if reset else b"")


def gap(session_id: str, first: int, last: int, cursor_id: bytes) -> bytes:
    """Events `first` to `last` of a session are not kept any more."""
    told = {"session": session_id, "from": f"{first:020}", "to": f"{last:020}"}
    return _control("howdah.gap", told, id=cursor_id)


def end(last: dict[str, int], cursor_id: bytes) -> bytes:
    """All is read, up to these numbers, one a session; nothing more will come."""
    told = {session_id: f"{number:020}" for session_id, number in last.items()}
    return _control("howdah.end", {"last_sequence": told}, id=cursor_id)


def slow(seconds: float) -> bytes:
    """The client is let go, as it takes too little."""
    detail = f"nothing was taken for {seconds:.0f} s: come back, and go on from the last id"
    return _control("howdah.slow", {"detail": detail}, retry=FULL_RETRY_MS)


def stopping(streams: int) -> bytes:
    """This process stops, with so many streams; another one goes on."""
    least, most = STOPPING_RETRY_MS
    return _control(retry=(least, most + 1_000 * streams // COME_BACK_A_SECOND))


def full() -> bytes:
    """There is no room for this stream now. All that an EventSource gets: any status but 200 would end it for good."""
    return _control(retry=FULL_RETRY_MS)


def partial(tenant_id: str, session_id: str, body: dict[str, Any]) -> bytes:
    """A part of an event to come, live only."""
    return b"data: %b\n\n" % _encoder.encode(
        {
            "specversion": "1.0",
            "source": f"/tenants/{tenant_id}/sessions/{session_id}",
            "partial": True,
            **body,
        }
    )


def marker(cursor_id: bytes) -> bytes:
    """Progress without an event: the stream's filter has passed over some."""
    return b"id: %b\n\n" % cursor_id


def _control(
    event: str | None = None,
    data: dict[str, Any] | None = None,
    *,
    retry: tuple[int, int] | None = None,
    id: bytes | None = None,
) -> bytes:
    return ServerSentEvent(
        event=event,
        data=None if data is None else _encoder.encode(data).decode(),
        id=None if id is None else id.decode(),
        retry=None if retry is None else random.randint(*retry),  # noqa: S311 - spreads load, hides nothing
        sep="\n",
    ).encode()


_encoder = msgspec.json.Encoder()
