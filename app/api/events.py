"""/v1/sessions/{id}/events: append; a JSON page; and, where an event stream is asked for, what comes as it comes."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, head, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter
from sqlalchemy import Text, cast, select

from howdah.app.api.auth import OPEN, Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.api.problems import FieldError, Problem, Refused, problem_of
from howdah.app.api.run_reads import find_run, parse_run_id
from howdah.app.api.sessions import OWN_PREFIX, SessionPath, read_session
from howdah.app.api.stream_tokens import authenticate_reader
from howdah.app.api.streams import (
    READER_EXCEPTION_HANDLERS,
    VARY,
    LastId,
    LastIdInQuery,
    Types,
    head_of_stream,
    open_stream,
)
from howdah.app.composition import Resources
from howdah.app.realtime.frames import EVENT_STREAM, CloudEvent, cloud_event
from howdah.sql.errors import HowdahError, SessionClosed, SessionFull, UnknownSession
from howdah.sql.json_values import checked
from howdah.sql.stream.calls import Appended, Event, NewEvent, read_consumer
from howdah.sql.tables import event
from howdah.sql.tables import session as session_table

# One transaction's worth; a client with more sends several.
MAX_BATCH = 500
# An event is a small fact, not a document.
MAX_DATA_BYTES = 256 * 1024
MAX_SEQ = (1 << 63) - 1

Type = Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["note.added"])]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=255, description="The same key again changes nothing.")]
Source = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        pattern=r'^[^\s<>"{}|\\^`\x00-\x1f\x7f]+$(?!\n)',
        description="The CloudEvent's source, a URI reference; left out: the session.",
    ),
]
Subject = Annotated[
    str, msgspec.Meta(min_length=1, max_length=255, description="What it is about; left out, of a run: the run.")
]
TRACEPARENT = r"^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$(?!\n)"
Traceparent = Annotated[
    str, msgspec.Meta(pattern=TRACEPARENT, description="W3C trace context; left out: the request's own header.")
]
After = Annotated[int, QueryParameter(ge=0, le=MAX_SEQ, description="Only events numbered above.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_BATCH, description=f"Events of a page, 1 to {MAX_BATCH}.")]
ConsumerInQuery = Annotated[
    str | None,
    QueryParameter(max_length=128, description="Begin after what this consumer has acknowledged."),
]
RunPath = Annotated[str, PathParameter(description="The run's id.", max_length=40)]


class EventToAppend(msgspec.Struct, forbid_unknown_fields=True):
    """An event: its `data` is any JSON of up to 256 KiB."""

    type: Type
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    key: Key | None = None
    source: Source | None = None
    subject: Subject | None = None
    traceparent: Traceparent | None = None


class EventsToAppend(msgspec.Struct, forbid_unknown_fields=True):
    """One event by its `type`, `data` and so on, or up to 500 as `events`."""

    events: Annotated[list[EventToAppend], msgspec.Meta(min_length=1, max_length=MAX_BATCH)] | None = None
    type: Type | None = None
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    key: Key | None = None
    source: Source | None = None
    subject: Subject | None = None
    traceparent: Traceparent | None = None


class AppendResult(msgspec.Struct, omit_defaults=True):
    """What became of the event at `index`: its number (201 new, 200 if its key was seen), or a `problem`."""

    index: int
    status: int
    seq: int | None = None
    problem: Problem | None = None


class AppendResults(msgspec.Struct):
    """One result an event, in order."""

    items: list[AppendResult]


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
    exception_handlers = READER_EXCEPTION_HANDLERS

    @post(
        "/v1/sessions/{session_id:str}/events",
        dto=JsonBody[EventsToAppend],
        responses={200: ResponseSpec(AppendResult, description="The event's key was seen: it is there already")},
    )
    async def append_events(
        self,
        request: Request[Any, Any, State],
        session_id: SessionPath,
        data: JSONBody[EventsToAppend],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Response[AppendResults | AppendResult]:
        """Append one event, or a batch of which a bad one fails alone. 201 once it is on disk."""
        single = data.events is None
        results = await _append(resources, caller.tenant(), session_id, _asked(data), _traceparent(request))
        refusals = [result for result in results if isinstance(result, Exception)]
        # What is wrong with the session is wrong with the request, not with its items.
        of_session = [r for r in refusals if isinstance(r, UnknownSession | SessionClosed | SessionFull)]
        if refusals and (single or len(of_session) == len(results)):
            raise refusals[0]
        items = [_result(index, result) for index, result in enumerate(results)]
        if not single:
            return Response(AppendResults(items), status_code=201)
        path = f"/v1/sessions/{session_id}/events?after={(items[0].seq or 1) - 1}&limit=1"
        return Response(items[0], status_code=items[0].status, headers={"Location": path})

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


def _asked(data: JSONBody[EventsToAppend]) -> list[EventToAppend]:
    alone = data.type is not None
    if alone == (data.events is not None):
        detail = "send one event, with a `type`, or several as `events`"
        raise Refused(422, "invalid-request", detail, errors=[FieldError(detail, "/type")])
    return data.events or [
        EventToAppend(data.type or "", data.data, data.key, data.source, data.subject, data.traceparent)
    ]


async def _append(
    resources: Resources, tenant_id: str, session_id: str, asked: list[EventToAppend], traceparent: str | None
) -> list[Appended | Exception]:
    """What became of each; those that can be written go into one batch, in order."""
    results: list[Appended | Exception | asyncio.Future[Appended]] = []
    for index, new in enumerate(asked):
        try:
            text = checked(bytes(new.data), f"data of event {index}", MAX_DATA_BYTES)
        except HowdahError as error:
            results.append(error)
        else:
            results.append(resources.appender.add(_new_event(tenant_id, session_id, new, text, traceparent)))
    futures = [result for result in results if isinstance(result, asyncio.Future)]
    done = iter(await asyncio.gather(*futures, return_exceptions=True))
    return [_outcome(next(done) if isinstance(r, asyncio.Future) else r, session_id) for r in results]


def _outcome(result: Appended | BaseException, session_id: str) -> Appended | Exception:
    if isinstance(result, Appended):
        if result.status == "unknown_session":
            return UnknownSession(f"session {session_id!r} is unknown: open it first, by POST /v1/sessions")
        if result.status == "closed":
            return SessionClosed(f"session {session_id!r} is closed: nothing can be appended to it")
        if result.status == "full":
            return SessionFull(
                f"session {session_id!r} is full: a required consumer is as far behind as the window allows; try again"
                f" when it has acknowledged some, see GET /v1/sessions/{session_id}/consumers"
            )
        return result
    if isinstance(result, Exception):
        return result
    raise result


def _new_event(tenant_id: str, session_id: str, new: EventToAppend, data: str, traceparent: str | None) -> NewEvent:
    return NewEvent(
        tenant_id, session_id, new.type, data, new.key, new.source, new.subject, new.traceparent or traceparent
    )


def _traceparent(request: Request[Any, Any, State]) -> str | None:
    """The request's own, where it is one: another is ignored, as W3C asks."""
    given = request.headers.get("traceparent", "")
    return given if re.match(TRACEPARENT, given) else None


def _result(index: int, result: Appended | Exception) -> AppendResult:
    if isinstance(result, Appended):
        return AppendResult(index, 201 if result.status == "created" else 200, result.seq)
    problem, _ = problem_of(result)
    return AppendResult(index, problem.status, problem=problem)


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
