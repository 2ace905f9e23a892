"""Streams: how a GET of events becomes one, and `/v1/events`, one stream over many sessions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Controller, Request, Response, get, head
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.types import ExceptionHandlersMap

from howdah.app.api.auth import OPEN
from howdah.app.api.problems import Problem, Refused, render
from howdah.app.api.sessions import read_session
from howdah.app.api.stream_tokens import MAX_SESSIONS, StreamReader, authenticate_reader
from howdah.app.composition import Resources
from howdah.app.realtime import frames
from howdah.app.realtime.admission import COME_BACK, NoRoom
from howdah.app.realtime.cursor import Cursor
from howdah.app.realtime.reader import Reader
from howdah.app.realtime.response import HEADERS, EventStream, SentAway

VARY = {"Vary": "Accept"}
MAX_TYPES = 20
MAX_LAST_ID = 800  # characters: those of a stream over many sessions that are old
# How long a stream may take to begin: Postgres restarts within seconds, proxies commonly give up after 30.
BEGIN_SECONDS = 10.0

LastId = Annotated[
    str | None,
    HeaderParameter(name="Last-Event-ID", max_length=MAX_LAST_ID, description="The `id` of the last event seen."),
]
LastIdInQuery = Annotated[
    str | None,
    QueryParameter(name="last_event_id", max_length=MAX_LAST_ID, description="As `Last-Event-ID`, which goes first."),
]
Types = Annotated[
    list[str] | None,
    QueryParameter(
        name="type", description=f"Only events of this type; several times for several, {MAX_TYPES} at most."
    ),
]
Sessions = Annotated[
    list[str] | None,
    QueryParameter(name="session", description=f"A session's id; once for each, {MAX_SESSIONS} at most."),
]

STREAM_RESPONSES = {
    200: ResponseSpec(
        None,
        media_type=frames.EVENT_STREAM,
        generate_examples=False,
        description="Events as they come, each a CloudEvent in `data:`",
    ),
    204: ResponseSpec(None, description="The sessions are closed and the client has seen all: do not come back"),
    503: ResponseSpec(
        None, description="As many streams as there may be, or no database: come back after `Retry-After` seconds"
    ),
}


def render_to_reader(request: Request[Any, Any, State], error: Exception) -> Response[Problem] | Response[None]:
    """The exception handler where a GET may stream: what passes must not end an EventSource for good."""
    answer = render(request, error)
    return SentAway() if answer.status_code == 503 and _speaks_as_event_source(request) else answer


READER_ERRORS: ExceptionHandlersMap = {Exception: render_to_reader}


class StreamController(Controller):
    """Streams over many sessions."""

    tags = ("sessions",)
    exception_handlers = READER_ERRORS

    @get("/v1/events", opt={OPEN: True}, responses=STREAM_RESPONSES)
    async def stream_events(
        self,
        request: Request[Any, Any, State],
        resources: NamedDependency[Resources],
        session_ids: Sessions = None,
        types: Types = None,
        last_id: LastId = None,
        last_id_in_query: LastIdInQuery = None,
    ) -> Response[Any]:
        """Stream the events of several sessions at once. Its ids hold for the same sessions in the same order."""
        reader, named = await _asked(request, resources, session_ids)
        return await open_stream(request, resources, reader, named, types, last_id or last_id_in_query)

    @head("/v1/events", opt={OPEN: True}, include_in_schema=False)
    async def look_at_events(
        self, request: Request[Any, Any, State], resources: NamedDependency[Resources], session_ids: Sessions = None
    ) -> Response[None]:
        """The headers of such a stream."""
        reader, named = await _asked(request, resources, session_ids)
        for session_id in named:
            await read_session(resources, reader.tenant_id, session_id)
        return head_of_stream()


async def open_stream(
    request: Request[Any, Any, State],
    resources: Resources,
    owner: StreamReader,
    session_ids: Sequence[str],
    types: list[str] | None,
    last_id: str | None,
    after: int = 0,
) -> Response[Any]:
    """The stream of these sessions after `last_id`; without one, after number `after` of each.

    Raises
    ------
    UnknownSession
        If one of them is not there.
    Refused
        503 if there are as many streams as there may be, or the database is away.
    """
    if types is not None and len(types) > MAX_TYPES:
        raise Refused(
            422, "invalid-request", f"{len(types)} types are too many: ask for {MAX_TYPES} at most, or for all"
        )
    try:
        place = resources.admission.enter(owner.tenant_id, owner.key_id)
    except NoRoom as error:
        raise _come_back("streams-full", str(error), error.retry_after) from None
    try:
        wanted = None if types is None else frozenset(types)
        async with asyncio.timeout(BEGIN_SECONDS):
            reader, start = await _seated(resources, owner.tenant_id, session_ids, wanted, last_id, after)
        if not reader.has_all:
            return EventStream(resources.hub, reader, place, start)
        place.leave()
        return Response(None, status_code=204, headers=VARY)
    except TimeoutError:
        place.leave()
        detail = f"the database did not answer within {BEGIN_SECONDS:.0f} s: come back later"
        retry_after = random.randint(*COME_BACK)  # noqa: S311 - spreads load, hides nothing
        raise _come_back("database-unavailable", detail, retry_after) from None
    except BaseException:
        place.leave()
        raise


def head_of_stream() -> Response[None]:
    """What a HEAD gets where a GET would stream."""
    return Response(None, media_type=frames.EVENT_STREAM, headers=HEADERS)


async def _asked(
    request: Request[Any, Any, State], resources: Resources, session_ids: list[str] | None
) -> tuple[StreamReader, list[str]]:
    """Who asks for a stream, and the sessions that it names, which it may read if they are there."""
    reader = await authenticate_reader(request, resources)
    named = session_ids or []
    for session_id in named:
        reader.check(session_id)
    if not 1 <= len(named) <= MAX_SESSIONS or len(set(named)) < len(named):
        detail = f"name 1 to {MAX_SESSIONS} sessions, each once; {len(named)} were named"
        raise Refused(422, "invalid-request", detail)
    return reader, named


async def _seated(
    resources: Resources,
    tenant_id: str,
    session_ids: Sequence[str],
    types: frozenset[str] | None,
    last_id: str | None,
    after: int,
) -> tuple[Reader, bytes]:
    """A reader that holds the first events, and the frames to send before them."""
    fresh = [0] * len(session_ids)
    seen: list[int] | None = [after] * len(session_ids)
    if last_id is not None:
        seen = Cursor(tenant_id, session_ids).read(last_id)
    reader = Reader(tenant_id, session_ids, seen or fresh, types)
    start = frames.start(reader.id, reset=False)
    await resources.hub.first_look(reader)
    for seat in reader.seats:
        if seat.state == "unknown":
            # A run's own session is there as soon as the run is.
            await read_session(resources, tenant_id, seat.place_of[1])
    if seen is not None and not any(seat.position > seat.last_seq for seat in reader.seats):
        return reader, start
    # An EventSource would give up on a 400: it is told, and gets all.
    reader = Reader(tenant_id, session_ids, fresh, types)
    start = frames.start(reader.id, reset=True)
    await resources.hub.first_look(reader)
    return reader, start


def _come_back(slug: str, detail: str, seconds: int) -> Refused:
    return Refused(503, slug, detail, headers={**VARY, "Retry-After": str(seconds)})


def _speaks_as_event_source(request: Request[Any, Any, State]) -> bool:
    """Whether any status but 200 would end the client for good, as far as its request tells."""
    headers = request.headers
    return headers.get("Accept") == frames.EVENT_STREAM and "Cache-Control" in headers
