"""Who is calling: a key in the Authorization header; an administrator's key acts for a tenant by naming it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler

from howdah.app.api.problems import Refused
from howdah.app.composition import Resources
from howdah.sql.errors import UnknownTenant

TENANT_HEADER = "Howdah-Tenant"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="howdah"'}
# A handler with this in `opt` is let through without a key: it authenticates its callers by itself.
OPEN = "howdah_open"
_SCOPE_KEY = "howdah_caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `tenant_id` None: an administrator who named no tenant."""

    tenant_id: str | None
    admin: bool
    key_id: str

    def tenant(self) -> str:
        """The tenant that this call is for.

        Raises
        ------
        Refused
            400, if an administrator named none.
        """
        if self.tenant_id is None:
            raise Refused(
                400,
                "tenant-missing",
                f"an administrator's key acts for a tenant: name it in the header {TENANT_HEADER}",
            )
        return self.tenant_id


async def authenticate(headers: Mapping[str, str], resources: Resources) -> Caller:
    """The caller of a request with these headers, their names in lower case.

    Raises
    ------
    Refused
        401, without a key or with a wrong one.
    UnknownTenant
        If a tenant's key names another tenant.
    """
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refused(401, "key-missing", "send a key: `Authorization: Bearer hwd_<id>_<secret>`", headers=CHALLENGE)
    owner = await resources.keys.owner(text.strip())
    if owner is None:
        raise Refused(
            401,
            "key-wrong",
            "this key is unknown or was revoked",
            headers={"WWW-Authenticate": f'{CHALLENGE["WWW-Authenticate"]}, error="invalid_token"'},
        )
    named = headers.get(TENANT_HEADER.lower())
    if owner.admin:
        return Caller(named, admin=True, key_id=owner.key_id)
    if named is not None and named != owner.tenant_id:
        raise UnknownTenant(f"tenant {named!r} is unknown to this key: leave the header {TENANT_HEADER} out")
    return Caller(owner.tenant_id, admin=False, key_id=owner.key_id)


async def require_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Guard: nothing of a request, its body least of all, is read before its key."""
    if not handler.opt.get(OPEN):
        connection.scope["state"][_SCOPE_KEY] = await authenticate(connection.headers, connection.app.state.resources)


def require_admin(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard: administrators only; goes after :func:`require_key`."""
    caller: Caller = connection.scope["state"][_SCOPE_KEY]
    if not caller.admin:
        raise Refused(403, "admin-only", "this needs an administrator's key; a tenant's key was sent")


def provide_caller(request: Request[Any, Any, State], resources: NamedDependency[Resources]) -> Caller:
    """What handlers receive as `caller`.

    After `resources`, which it has no use for: what Litestar can resolve side by side it resolves in a task group, and
    that alone took a quarter of a small request.
    """
    caller: Caller = request.scope["state"][_SCOPE_KEY]
    return caller


def provide_resources(state: State) -> Resources:
    """What handlers receive as `resources`."""
    resources: Resources = state.resources
    return resources
