"""/v1/sessions/{id}/partials: parts of events to come, for who reads now. Nothing is stored."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody
from howdah.app.api.problems import RETRY_AFTER, Refused
from howdah.app.api.sessions import SessionPath, read_session
from howdah.app.composition import Resources
from howdah.sql.errors import SessionClosed
from howdah.sql.json_values import checked
from howdah.sql.stream.partial_sender import MAX_PAYLOAD_BYTES


class PartialToSend(msgspec.Struct, forbid_unknown_fields=True):
    """A part of an event to come: its `data` is any JSON of up to some 7,900 bytes."""

    type: Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["assistant.message"])]
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))


class PartialController(Controller):
    """Partials."""

    tags = ("sessions",)

    @post("/v1/sessions/{session_id:str}/partials", dto=JsonBody[PartialToSend], status_code=202)
    async def send_partial(
        self,
        session_id: SessionPath,
        data: JSONBody[PartialToSend],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Response[None]:
        """Show a part of an event to those who stream the session now; append the event itself when it is whole.

        What comes within 20 ms goes together, in order; of equal ones among that one is shown, so number them.
        """
        tenant_id = caller.tenant()
        text = checked(bytes(data.data), "data of the partial", MAX_PAYLOAD_BYTES)
        if (await read_session(resources, tenant_id, session_id)).state == "closed":
            raise SessionClosed(f"session {session_id!r} is closed: nothing can be sent to it")
        if not resources.partials.send(tenant_id, session_id, data.type, text):
            detail = (
                "too many partials wait to be sent, as the database is away: try again, or append the event when whole"
            )
            raise Refused(503, "partials-full", detail, headers=RETRY_AFTER)
        return Response(None, status_code=202, media_type="text/plain")
