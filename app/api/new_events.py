"""POST /v1/sessions/{id}/events: events that producers append, one or a batch, through group commit."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.api.problems import FieldError, Problem, Refused, problem_of
from howdah.app.api.sessions import SessionPath
from howdah.app.api.traceparent import TRACEPARENT, traceparent_of
from howdah.app.composition import Resources
from howdah.sql.errors import HowdahError, SessionClosed, SessionFull, UnknownSession
from howdah.sql.json_values import checked
from howdah.sql.stream.calls import Appended, NewEvent

# One transaction's worth; a client with more sends several.
MAX_BATCH = 500
# An event is a small fact, not a document.
MAX_DATA_BYTES = 256 * 1024

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
Traceparent = Annotated[
    str, msgspec.Meta(pattern=TRACEPARENT, description="W3C trace context; left out: the request's own header.")
]


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


class NewEventController(Controller):
    """Events to append."""

    tags = ("sessions",)

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
        results = await _append(resources, caller.tenant(), session_id, _asked(data), traceparent_of(request.headers))
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


def _result(index: int, result: Appended | Exception) -> AppendResult:
    if isinstance(result, Appended):
        return AppendResult(index, 201 if result.status == "created" else 200, result.seq)
    problem, _ = problem_of(result)
    return AppendResult(index, problem.status, problem=problem)
