"""GET of a session's or a run's events: a page of JSON; and, where a stream is asked for, what comes as it comes."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, head
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter, QueryParameter
from sqlalchemy import Text, cast, select

from howdah.app.api.auth import OPEN
from howdah.app.api.run_reads import find_run, parse_run_id
from howdah.app.api.sessions import OWN_PREFIX, SessionPath, read_session
from howdah.app.api.stream_tokens import authenticate_reader
from howdah.app.api.streams import (
    READER_ERRORS,
    VARY,
    LastId,
    LastIdInQuery,
    Types,
    head_of_stream,
    open_stream,
)
from howdah.app.composition import Resources
from howdah.app.realtime.frames import EVENT_STREAM, CloudEvent, cloud_event
from howdah.sql.stream.calls import Event, read_consumer
from howdah.sql.tables import event
from howdah.sql.tables import session as session_table

# Events of a page, at most.
MAX_PAGE = 500
MAX_SEQ = (1 << 63) - 1

After = Annotated[int, QueryParameter(ge=0, le=MAX_SEQ, description="Only events numbered above.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description=f"Events of a page, 1 to {MAX_PAGE}.")]
ConsumerInQuery = Annotated[
    str | None,
    QueryParameter(max_length=128, description="Begin after what this consumer has acknowledged."),
]
RunPath = Annotated[str, PathParameter(description="The run's id.", max_length=40)]


class Gap(msgspec.Struct, rename={"first": "from", "last": "to"}):
    """Numbers of events that were asked for and are kept no longer."""

    first: int
    last: int


class EventPage(msgspec.Struct):
    """Events in order. `next` is the `after` of the next page; at the end of an open session, ask again with it.

    `first_seq` is the oldest event that is kept; a page asked for from before it has the `gap`.
    """

    events: list[CloudEvent]
    next: int
    first_seq: int
    last_seq: int
    closed: bool
    gap: Gap | msgspec.UnsetType = msgspec.UNSET


_READ_RESPONSES = {
    200: ResponseSpec(EventPage, description="A page; or, with `Accept: text/event-stream`, events as they come"),
    204: ResponseSpec(None, description="The session is closed and the stream's client has seen all"),
}


class EventController(Controller):
    """Events."""

    tags = ("sessions",)
    exception_handlers = READER_ERRORS

    @get("/v1/sessions/{session_id:str}/events", opt={OPEN: True}, responses=_READ_RESPONSES)
    async def read_events(
        self,
        request: Request[Any, Any, State],
        session_id: SessionPath,
        resources: NamedDependency[Resources],
        after: After = 0,
        limit: Limit = 100,
        types: Types = None,
        last_id: LastId = None,
        last_id_in_query: LastIdInQuery = None,
        consumer: ConsumerInQuery = None,
    ) -> Response[Any]:
        """Read a session's events: a page of JSON, or a stream that can be left and resumed by `Last-Event-ID`.

        A browser's EventSource sends `?token=` of `POST /v1/stream-tokens` instead of a key.
        """
        reader = await authenticate_reader(request, resources)
        reader.check(session_id)
        last_id = last_id or last_id_in_query
        if consumer is not None:
            # What it has not acknowledged it gets again, whatever it has seen.
            async with resources.pool.connection() as connection:
                found = await read_consumer(connection, reader.tenant_id, session_id, consumer)
            after, last_id = found.acked_seq, None
        if not _wants_stream(request):
            return await _page(resources, reader.tenant_id, session_id, after, limit, types)
        return await open_stream(request, resources, reader, [session_id], types, last_id, after)

    @head("/v1/sessions/{session_id:str}/events", opt={OPEN: True}, include_in_schema=False)
    async def look_at_events(
        self, request: Request[Any, Any, State], session_id: SessionPath, resources: NamedDependency[Resources]
    ) -> Response[None]:
        """The headers that a GET would have."""
        reader = await authenticate_reader(request, resources)
        reader.check(session_id)
        await read_session(resources, reader.tenant_id, session_id)
        return _head(request)

    @get("/v1/runs/{run_id:str}/events", opt={OPEN: True}, responses=_READ_RESPONSES)
    async def read_run_events(
        self,
        request: Request[Any, Any, State],
        run_id: RunPath,
        resources: NamedDependency[Resources],
        after: After = 0,
        limit: Limit = 100,
        types: Types = None,
        last_id: LastId = None,
        last_id_in_query: LastIdInQuery = None,
    ) -> Response[Any]:
        """Read the events of a run's session, which is its own, `run:<id>`, if it was given none."""
        reader = await authenticate_reader(request, resources)
        number = parse_run_id(run_id)
        session_id = (await find_run(resources.engine, reader.tenant_id, number)).session or f"{OWN_PREFIX}{number}"
        reader.check(session_id)
        if not _wants_stream(request):
            return await _page(resources, reader.tenant_id, session_id, after, limit, types)
        return await open_stream(request, resources, reader, [session_id], types, last_id or last_id_in_query, after)

    @head("/v1/runs/{run_id:str}/events", opt={OPEN: True}, include_in_schema=False)
    async def look_at_run_events(
        self, request: Request[Any, Any, State], run_id: RunPath, resources: NamedDependency[Resources]
    ) -> Response[None]:
        """The headers that a GET would have."""
        reader = await authenticate_reader(request, resources)
        number = parse_run_id(run_id)
        reader.check((await find_run(resources.engine, reader.tenant_id, number)).session or f"{OWN_PREFIX}{number}")
        return _head(request)


def _head(request: Request[Any, Any, State]) -> Response[None]:
    return head_of_stream() if _wants_stream(request) else Response(None, headers=VARY, media_type="application/json")


def _wants_stream(request: Request[Any, Any, State]) -> bool:
    return EVENT_STREAM in request.headers.get("Accept", "")


async def _page(
    resources: Resources, tenant_id: str, session_id: str, after: int, limit: int, types: list[str] | None
) -> Response[EventPage]:
    # The session first: its last number then bounds the page, so that nothing is passed over that comes meanwhile.
    session = await read_session(resources, tenant_id, session_id)
    c, s = event.c, session_table.c
    of_session = s.tenant_id == tenant_id, s.id == session_id
    query = (
        select(c.seq, c.type, cast(c.data, Text), c.run_id, c.created_at, c.source, c.subject, c.traceparent)
        .where(
            c.tenant_id == tenant_id,
            c.session_id == session_id,
            c.seq > max(after, session.first_seq - 1),
            c.seq <= session.last_seq,
            # The days that it can be in.
            c.created_at >= select(s.first_at).where(*of_session).scalar_subquery(),
            c.created_at <= select(s.last_at).where(*of_session).scalar_subquery(),
        )
        .order_by(c.seq)
        .limit(limit)
    )
    if types is not None:
        query = query.where(c.type.in_(types))
    async with resources.engine.connect() as reading:
        found = [Event(*row) for row in (await reading.execute(query)).all()]
    return Response(
        EventPage(
            [cloud_event(tenant_id, session_id, each) for each in found],
            next=found[-1].seq if len(found) == limit else max(after, session.last_seq),
            first_seq=session.first_seq,
            last_seq=session.last_seq,
            closed=session.state == "closed",
            gap=Gap(after + 1, session.first_seq - 1) if after < session.first_seq - 1 else msgspec.UNSET,
        ),
        headers=VARY,
    )
