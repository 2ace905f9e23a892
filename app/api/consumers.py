"""/v1/sessions/{id}/consumers: who reads a session and says how far it has come, so that producers can wait for it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.api.sessions import SessionPath, read_session
from howdah.app.composition import Resources
from howdah.sql.errors import UnknownConsumer
from howdah.sql.stream import calls
from howdah.sql.stream.writer import ROOM_CHANNEL

ConsumerName = Annotated[
    str,
    PathParameter(
        description="The consumer's name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.",
        max_length=128,
    ),
]
Number = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class ConsumerToPut(msgspec.Struct, forbid_unknown_fields=True, rename={"first": "from"}):
    """A consumer. While one that is `required` is further behind than the session's window, producers have to wait.

    `from`, of a new one: its first event, `start` (the oldest that is kept), `now` (what comes next) or a number.
    """

    required: bool = False
    first: Literal["start", "now"] | Number = "start"


class Acknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    """The number up to which the consumer has everything."""

    sequence: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Acknowledged(msgspec.Struct, frozen=True):
    """How far the consumer has come: never back, also where less was acknowledged than before."""

    acked_seq: int


class Consumer(msgspec.Struct, frozen=True):
    """A consumer: it has everything up to `acked_seq`, and `lag` events that are kept it has not acknowledged."""

    name: str
    required: bool
    acked_seq: int
    lag: int
    created_at: datetime
    acked_at: datetime | None


class ConsumerList(msgspec.Struct, frozen=True):
    """By name."""

    items: list[Consumer]


class ConsumerController(Controller):
    """Consumers."""

    path = "/v1/sessions/{session_id:str}/consumers"
    tags = ("sessions",)

    @get()
    async def list_consumers(
        self, session_id: SessionPath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> ConsumerList:
        """List a session's consumers, and how far each is behind."""
        await read_session(resources, caller.tenant(), session_id)
        async with resources.pool.connection() as connection:
            found = await calls.read_consumers(connection, caller.tenant(), session_id)
        return ConsumerList([_consumer(each) for each in found])

    @get("/{name:str}")
    async def get_consumer(
        self,
        session_id: SessionPath,
        name: ConsumerName,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Consumer:
        """Look up a consumer."""
        return await _read(resources, caller, session_id, name)

    @put(
        "/{name:str}",
        dto=JsonBody[ConsumerToPut],
        responses={201: ResponseSpec(Consumer, description="It is new")},
    )
    async def put_consumer(
        self,
        session_id: SessionPath,
        name: ConsumerName,
        data: JSONBody[ConsumerToPut],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Response[Consumer]:
        """Name a consumer, or change whether it is required. One that is there keeps its place."""
        first = {"start": 1, "now": None}[data.first] if isinstance(data.first, str) else data.first
        async with resources.pool.connection() as connection:
            created = await calls.put_consumer(
                connection, caller.tenant(), session_id, name, required=data.required, first=first
            )
        found = await _read(resources, caller, session_id, name)
        return Response(found, status_code=201 if created else 200)

    @delete("/{name:str}")
    async def delete_consumer(
        self,
        session_id: SessionPath,
        name: ConsumerName,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> None:
        """Forget a consumer and its place: producers no longer wait for it."""
        async with resources.pool.connection() as connection:
            if not await calls.delete_consumer(connection, caller.tenant(), session_id, name):
                raise UnknownConsumer(f"session {session_id!r} has no consumer {name!r}")

    @post("/{name:str}/ack", dto=JsonBody[Acknowledgement], status_code=200)
    async def ack_events(
        self,
        session_id: SessionPath,
        name: ConsumerName,
        data: JSONBody[Acknowledgement],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Acknowledged:
        """Say that all events up to a number have arrived. Less than was said before changes nothing."""
        async with resources.pool.connection() as connection:
            acked = await calls.ack_events(connection, caller.tenant(), session_id, name, data.sequence, notify=False)
        if acked.freed:
            resources.notifier.hint(ROOM_CHANNEL, [f"{caller.tenant()}/{session_id}"])
        return Acknowledged(acked.seq)


async def _read(resources: Resources, caller: Caller, session_id: str, name: str) -> Consumer:
    async with resources.pool.connection() as connection:
        return _consumer(await calls.read_consumer(connection, caller.tenant(), session_id, name))


def _consumer(found: calls.Consumer) -> Consumer:
    return Consumer(found.name, found.required, found.acked_seq, found.lag, found.created_at, found.acked_at)
