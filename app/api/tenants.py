"""`/v1/tenants` and their keys: for administrators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter
from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from howdah.app.api.auth import require_admin
from howdah.app.api.bodies import JsonBody
from howdah.app.api.pagination import DEFAULT_LIMIT, Cursor, Limit, decode_cursor, encode_cursor
from howdah.app.api.problems import Refused
from howdah.app.composition import Resources
from howdah.app.keys import new_api_key, store_key
from howdah.sql.errors import UnknownTenant
from howdah.sql.queue.calls import pause_tenant, set_tenant_weight
from howdah.sql.stream.calls import set_tenant_event_days
from howdah.sql.tables import api_key, tenant
from howdah.sql.tenancy.calls import create_tenant, revoke_api_key

TenantId = Annotated[str, PathParameter(description="The tenant's id.", max_length=63)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class NewTenant(msgspec.Struct, forbid_unknown_fields=True):
    """A tenant to make; `name` left out: its id."""

    id: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)",
            description="Lower-case letters, digits and -, up to 63.",
            examples=["acme"],
        ),
    ]
    name: Name | None = None


class TenantChanges(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a tenant; what is left out stays."""

    weight: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] | None = None
    paused: bool | None = None
    event_days: Annotated[int, msgspec.Meta(ge=1, le=36500)] | msgspec.UnsetType | None = msgspec.UNSET
    """For how many days its events are kept; null: as long as the installation keeps them."""


class Tenant(msgspec.Struct, frozen=True):
    """A customer. `weight`: its share of each queue beside the others' shares. While `paused`, no run of it starts.

    `event_days`: for how many days its events are kept; null: as long as the installation keeps them.
    """

    id: str
    name: str
    weight: float
    paused: bool
    event_days: int | None
    created_at: datetime


class TenantPage(msgspec.Struct, frozen=True):
    """By id; `next` is the cursor of the page after, null at the end."""

    items: list[Tenant]
    next: str | None


class NewKeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a key is for, to tell it from others later."""

    name: Name = "key"


class IssuedKey(msgspec.Struct, frozen=True):
    """A new key; `key` is what its owner sends, and is shown this once."""

    id: str
    name: str
    key: str


class KeyEntry(msgspec.Struct, frozen=True):
    """A key without its secret, which nobody can read again."""

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


class KeyPage(msgspec.Struct, frozen=True):
    """By id; `next` is the cursor of the page after, null at the end."""

    items: list[KeyEntry]
    next: str | None


class TenantController(Controller):
    """Tenants and their keys."""

    path = "/v1/tenants"
    tags = ("tenants",)
    guards = (require_admin,)

    @post(
        dto=JsonBody[NewTenant],
        responses={200: ResponseSpec(Tenant, description="It was there already")},
    )
    async def create_tenant(self, data: JSONBody[NewTenant], resources: NamedDependency[Resources]) -> Response[Tenant]:
        """Make a tenant. One that exists is left as it is and answered with 200."""
        async with resources.pool.connection() as connection:
            created = await create_tenant(connection, data.id, data.name)
        found = await _find_tenant(resources.engine, data.id)
        return Response(found, status_code=201 if created else 200, headers={"Location": f"/v1/tenants/{data.id}"})

    @get()
    async def list_tenants(
        self, resources: NamedDependency[Resources], cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
    ) -> TenantPage:
        """List tenants by id."""
        query = select(tenant).order_by(tenant.c.id).limit(limit + 1)
        position = decode_cursor("tenants", cursor)
        if position is not None:
            query = query.where(tenant.c.id > position)
        async with resources.engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        more = encode_cursor("tenants", rows[limit - 1].id) if len(rows) > limit else None
        return TenantPage([_tenant(row) for row in rows[:limit]], more)

    @get("/{tenant_id:str}")
    async def get_tenant(self, tenant_id: TenantId, resources: NamedDependency[Resources]) -> Tenant:
        """Look up a tenant."""
        return await _find_tenant(resources.engine, tenant_id)

    @patch("/{tenant_id:str}", dto=JsonBody[TenantChanges])
    async def change_tenant(
        self, tenant_id: TenantId, data: JSONBody[TenantChanges], resources: NamedDependency[Resources]
    ) -> Tenant:
        """Set a tenant's weight or for how long its events are kept, pause it in all queues, or let it go on.

        Runs that run go on to their end."""
        async with resources.pool.connection() as connection, connection.transaction():
            if data.weight is not None:
                await set_tenant_weight(connection, tenant_id, data.weight)
            if data.paused is not None:
                await pause_tenant(connection, tenant_id, data.paused)
            if data.event_days is not msgspec.UNSET:
                await set_tenant_event_days(connection, tenant_id, data.event_days)
        return await _find_tenant(resources.engine, tenant_id)

    @post("/{tenant_id:str}/keys", dto=JsonBody[NewKeyBody])
    async def create_key(
        self, tenant_id: TenantId, data: JSONBody[NewKeyBody], resources: NamedDependency[Resources]
    ) -> Response[IssuedKey]:
        """Make a key for a tenant. The answer is the only place where its secret ever stands."""
        key = new_api_key()
        async with resources.pool.connection() as connection:
            await store_key(connection, key, tenant_id, data.name)
        headers = {"Location": f"/v1/tenants/{tenant_id}/keys/{key.id}", "Cache-Control": "no-store"}
        return Response(IssuedKey(key.id, data.name, key.text), headers=headers)

    @get("/{tenant_id:str}/keys")
    async def list_keys(
        self,
        tenant_id: TenantId,
        resources: NamedDependency[Resources],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> KeyPage:
        """List a tenant's keys, the revoked ones too, without their secrets."""
        await _find_tenant(resources.engine, tenant_id)
        c = api_key.c
        query = select(c.id, c.name, c.created_at, c.revoked_at).where(c.tenant_id == tenant_id)
        query = query.order_by(c.id).limit(limit + 1)
        scope = f"keys of {tenant_id}"
        position = decode_cursor(scope, cursor)
        if position is not None:
            query = query.where(c.id > position)
        async with resources.engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        more = encode_cursor(scope, rows[limit - 1].id) if len(rows) > limit else None
        return KeyPage([KeyEntry(row.id, row.name, row.created_at, row.revoked_at) for row in rows[:limit]], more)

    @delete("/{tenant_id:str}/keys/{key_id:str}")
    async def revoke_key(
        self,
        tenant_id: TenantId,
        key_id: Annotated[str, PathParameter(description="The key's id.", max_length=64)],
        resources: NamedDependency[Resources],
    ) -> None:
        """Revoke a key: it opens nothing here from now on, and nowhere after five seconds."""
        async with resources.pool.connection() as connection:
            revoked = await revoke_api_key(connection, tenant_id, key_id)
        if not revoked:
            raise Refused(404, "unknown-key", f"tenant {tenant_id!r} has no key {key_id!r}", title="Unknown key")
        resources.keys.forget()


async def _find_tenant(engine: AsyncEngine, tenant_id: str) -> Tenant:
    async with engine.connect() as connection:
        row = (await connection.execute(select(tenant).where(tenant.c.id == tenant_id))).one_or_none()
    if row is None:
        raise UnknownTenant(f"tenant {tenant_id!r} is unknown")
    return _tenant(row)


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(row.id, row.name, row.weight, row.paused, row.event_days, row.created_at)
