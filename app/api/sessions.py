"""/v1/sessions: ordered streams within a tenant. A run without a session writes to one of its own, `run:<id>`."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Response, get, patch, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter
from sqlalchemy import Row, literal, select, tuple_

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.api.pagination import DEFAULT_LIMIT, Cursor, Limit, decode_cursor, encode_cursor
from howdah.app.api.run_reads import FINAL_STATES, Run, find_run, parse_run_id
from howdah.app.composition import Resources
from howdah.sql.errors import UnknownRun, UnknownSession
from howdah.sql.stream.calls import close_session, create_session, set_event_window
from howdah.sql.tables import session

OWN_PREFIX = "run:"

SessionId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)",
        description="Letters, digits, `.`, `_` and `-`, beginning with a letter or digit; 128 at most.",
        examples=["case-7"],
    ),
]


Window = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=(1 << 53) - 1,
        description="How many events its slowest required consumer may be behind before producers have to wait.",
    ),
]
SessionPath = Annotated[str, PathParameter(description="The session's id; `run:<id>` for a run's own.", max_length=128)]


class NewSession(msgspec.Struct, forbid_unknown_fields=True):
    """A session to open; without an `id` it is given one."""

    id: SessionId | None = None
    event_window: Window | None = None


class SessionChanges(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a session: a number sets its window, null removes it."""

    event_window: Window | msgspec.UnsetType | None = msgspec.UNSET


class Session(msgspec.Struct):
    """A session as it stands; `last_seq` is the number of its last event, 0 before the first.

    `first_seq` is the oldest event that is kept, last_seq + 1 if none is.
    """

    id: str
    tenant: str
    state: Literal["open", "closed"]
    last_seq: int
    first_seq: int
    created_at: datetime
    closed_at: datetime | None
    event_window: int | None


class SessionPage(msgspec.Struct):
    """Newest first; `next` is the cursor of the page after, null at the end."""

    items: list[Session]
    next: str | None


class SessionController(Controller):
    """Sessions: open, look at, close."""

    path = "/v1/sessions"
    tags = ("sessions",)

    @post(dto=JsonBody[NewSession], responses={200: ResponseSpec(Session, description="There already")})
    async def create_session(
        self, data: JSONBody[NewSession], caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Response[Session]:
        """Open a session. One that is there already is answered as it is, with 200."""
        tenant_id = caller.tenant()
        session_id = data.id or secrets.token_hex(8)
        async with resources.pool.connection() as connection:
            created = await create_session(connection, tenant_id, session_id, data.event_window)
        found = await read_session(resources, tenant_id, session_id)
        return Response(
            found,
            status_code=201 if created else 200,
            headers={"Location": f"/v1/sessions/{session_id}"},
        )

    @get()
    async def list_sessions(
        self,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> SessionPage:
        """List sessions, newest first."""
        tenant_id = caller.tenant()
        scope = f"sessions {tenant_id}"
        query = (
            select(*_READ)
            .where(session.c.tenant_id == tenant_id)
            .order_by(session.c.created_at.desc(), session.c.id.desc())
            .limit(limit + 1)
        )
        if (position := decode_cursor(scope, cursor)) is not None:
            time, _, last_id = position.partition(" ")
            place = tuple_(literal(datetime.fromisoformat(time)), literal(last_id))
            query = query.where(tuple_(session.c.created_at, session.c.id) < place)
        async with resources.engine.connect() as reading:
            rows = (await reading.execute(query)).all()
        found = [_session(row) for row in rows[:limit]]
        more = encode_cursor(scope, f"{found[-1].created_at.isoformat()} {found[-1].id}") if len(rows) > limit else None
        return SessionPage(found, more)

    @get("/{session_id:str}")
    async def get_session(
        self, session_id: SessionPath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Session:
        """Look up a session: its state, and the number of its last event."""
        return await read_session(resources, caller.tenant(), session_id)

    @patch("/{session_id:str}", dto=JsonBody[SessionChanges])
    async def change_session(
        self,
        session_id: SessionPath,
        data: JSONBody[SessionChanges],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Session:
        """Set a session's window, or remove it: producers wait for required consumers that are further behind."""
        tenant_id = caller.tenant()
        if data.event_window is not msgspec.UNSET:
            async with resources.pool.connection() as connection:
                await set_event_window(connection, tenant_id, session_id, data.event_window)
        return await read_session(resources, tenant_id, session_id)

    @post("/{session_id:str}/close", status_code=200)
    async def close_session(
        self, session_id: SessionPath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Session:
        """Close a session: nothing more can be appended, and streams end after the last event. Twice is as once."""
        tenant_id = caller.tenant()
        async with resources.pool.connection() as connection:
            await close_session(connection, tenant_id, session_id)
        return await read_session(resources, tenant_id, session_id)


async def read_session(resources: Resources, tenant_id: str, session_id: str) -> Session:
    """A session as it stands. A run's own, `run:<id>`, is there as soon as the run is, and closed when that is over.

    Raises
    ------
    UnknownSession
        If the tenant has none with this id.
    """
    query = select(*_READ).where(session.c.tenant_id == tenant_id, session.c.id == session_id)
    # The run first: its last events are committed with its end, or before.
    of_run = await _owner(resources, tenant_id, session_id)
    async with resources.engine.connect() as reading:
        row = (await reading.execute(query)).one_or_none()
    found = None if row is None else _session(row)
    if found is None and of_run is not None:
        found = Session(session_id, tenant_id, "open", 0, 1, of_run.created_at, None, None)
    if found is None:
        raise UnknownSession(f"session {session_id!r} is unknown: open it first, by POST /v1/sessions")
    if of_run is not None and of_run.state in FINAL_STATES and found.state == "open":
        found.state, found.closed_at = "closed", of_run.finished_at
    return found


async def _owner(resources: Resources, tenant_id: str, session_id: str) -> Run | None:
    """The run that alone writes to this session, if it is such a session and the run is there."""
    if not session_id.startswith(OWN_PREFIX):
        return None
    try:
        return await find_run(resources.engine, tenant_id, parse_run_id(session_id.removeprefix(OWN_PREFIX)))
    except UnknownRun:
        return None


# All that a Session has. Not first_at, which is infinity where all is cut: no datetime can be that.
_READ = [session.c["tenant_id" if field == "tenant" else field] for field in Session.__struct_fields__]


def _session(row: Row[Any]) -> Session:
    return Session(
        row.id,
        row.tenant_id,
        row.state,
        row.last_seq,
        row.first_seq,
        row.created_at,
        row.closed_at,
        row.event_window,
    )
