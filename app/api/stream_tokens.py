"""/v1/stream-tokens: what a browser's EventSource, which cannot send a key, carries in its URL.

A token is `hst_<claims>.<HMAC-SHA256>`, both base64url; every process of the cell can check it.
"""

from __future__ import annotations

import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import JSONBody

from howdah.app.api.auth import CHALLENGE, Caller, authenticate
from howdah.app.api.bodies import JsonBody
from howdah.app.api.problems import FieldError, Refused
from howdah.app.api.sessions import read_session
from howdah.app.composition import Resources

PREFIX = "hst_"
# A page that lives longer asks for another: a token in a URL ends up in logs.
MAX_TTL_SECONDS = 3_600
# As many as one stream may be over.
MAX_SESSIONS = 50


SessionName = Annotated[str, msgspec.Meta(min_length=1, max_length=128, examples=["case-7"])]


class NewStreamToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token to make, for one `session` or for several `sessions`; `ttl` in seconds, the installation's default if
    left out.
    """

    session: SessionName | None = None
    sessions: Annotated[list[SessionName], msgspec.Meta(min_length=1, max_length=MAX_SESSIONS)] | None = None
    ttl: Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL_SECONDS)] | None = None


class StreamToken(msgspec.Struct):
    """To be sent as `?token=` in a GET of the sessions' events, until `expires_at`."""

    token: str
    expires_at: datetime


class _Claims(msgspec.Struct, array_like=True):
    """Whose stream it is, and until when, in seconds since 1970; and the key that it was made by."""

    tenant_id: str
    session_ids: list[str]
    expires: int
    key_id: str


@dataclass(frozen=True, slots=True)
class StreamReader:
    """Who reads a stream; `session_ids` are those that a token opens, None for a key. `key_id` is the key by which
    either came.
    """

    tenant_id: str
    session_ids: list[str] | None
    key_id: str

    def check(self, session_id: str) -> None:
        """Refuse, with 403, a token that was made for other sessions."""
        if self.session_ids is not None and session_id not in self.session_ids:
            of_token = ", ".join(map(repr, self.session_ids[:3]))
            raise Refused(
                403,
                "token-of-another-session",
                f"this token is for session {of_token}, not {session_id!r}: make another",
            )


class StreamTokenController(Controller):
    """Stream tokens."""

    path = "/v1/stream-tokens"
    tags = ("sessions",)

    @post(dto=JsonBody[NewStreamToken])
    async def create_stream_token(
        self,
        data: JSONBody[NewStreamToken],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        state: State,
    ) -> StreamToken:
        """Make a token that reads the events of these sessions and nothing else. It is not revoked, it expires."""
        tenant_id = caller.tenant()
        if (data.session is None) == (data.sessions is None):
            detail = "name one `session`, or several as `sessions`"
            raise Refused(422, "invalid-request", detail, errors=[FieldError(detail, "/session")])
        session_ids = data.sessions or [data.session or ""]
        for session_id in session_ids:
            await read_session(resources, tenant_id, session_id)
        expires = int(time.time()) + (data.ttl or resources.settings.stream_token_seconds)
        claims = _Claims(tenant_id, session_ids, expires, caller.key_id)
        return StreamToken(_sign(claims, await _secret(resources, state)), datetime.fromtimestamp(expires, UTC))


async def authenticate_reader(request: Request[Any, Any, State], resources: Resources) -> StreamReader:
    """Who reads a stream: by `?token=` if there is one, else by key.

    Raises
    ------
    Refused
        401 for a token that is forged or over; else as by a key.
    """
    token = request.query_params.get("token")
    if token is None:
        caller = await authenticate(request.headers, resources)
        return StreamReader(caller.tenant(), None, caller.key_id)
    claims = _verified(token, await _secret(resources, request.app.state))
    return StreamReader(claims.tenant_id, claims.session_ids, claims.key_id)


def _sign(claims: _Claims, secret: bytes) -> str:
    body = urlsafe_b64encode(msgspec.json.encode(claims)).rstrip(b"=")
    return f"{PREFIX}{body.decode()}.{_mac(body, secret)}"


def _verified(token: str, secret: bytes) -> _Claims:
    body, _, mac = token.removeprefix(PREFIX).partition(".")
    data = body.encode("utf-8", "surrogateescape")
    if not token.startswith(PREFIX) or not hmac.compare_digest(mac.encode(), _mac(data, secret).encode()):
        raise _refused("token-wrong", "this stream token is not one of this installation")
    claims = msgspec.json.decode(urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=_Claims)
    if claims.expires <= time.time():
        ended = datetime.fromtimestamp(claims.expires, UTC).isoformat()
        raise _refused("token-over", f"this stream token ended at {ended}: make another, by POST /v1/stream-tokens")
    return claims


def _mac(body: bytes, secret: bytes) -> str:
    return urlsafe_b64encode(hmac.digest(secret, b"stream token " + body, "sha256")).rstrip(b"=").decode()


def _refused(slug: str, detail: str) -> Refused:
    return Refused(401, slug, detail, headers=CHALLENGE)


async def _secret(resources: Resources, state: State) -> bytes:
    """The setting, else the database's, which is asked for once a process."""
    if resources.settings.stream_token_secret is not None:
        return resources.settings.stream_token_secret.encode()
    kept: bytes | None = state.get("stream_secret")
    if kept is None:
        async with resources.pool.connection() as connection:
            row = await (await connection.execute("select secret from stream_secret()")).fetchone()
        assert row is not None
        kept = state["stream_secret"] = bytes(row[0])
    return kept
