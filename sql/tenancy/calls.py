"""Typed callers of the tenancy's functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from dataclasses import dataclass

from howdah.sql.pool import Connection


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose key it is: a tenant's, or (None) an administrator's."""

    tenant_id: str | None
    key_id: str

    @property
    def admin(self) -> bool:
        return self.tenant_id is None


async def create_tenant(connection: Connection, tenant_id: str, name: str | None = None) -> bool:
    """Make a tenant; False if it was there already."""
    row = await (await connection.execute("select created from create_tenant(%s, %s)", [tenant_id, name])).fetchone()
    assert row is not None
    created: bool = row[0]
    return created


async def create_api_key(
    connection: Connection, key_id: str, tenant_id: str | None, name: str, secret_sha256: bytes
) -> None:
    """Store a key by the hash of its secret."""
    await connection.execute("select create_api_key(%s, %s, %s, %s)", [key_id, tenant_id, name, secret_sha256])


async def revoke_api_key(connection: Connection, tenant_id: str | None, key_id: str) -> bool:
    """False if there is no such key."""
    row = await (await connection.execute("select revoked from revoke_api_key(%s, %s)", [tenant_id, key_id])).fetchone()
    assert row is not None
    revoked: bool = row[0]
    return revoked


async def find_api_key(connection: Connection, key_id: str, secret_sha256: bytes) -> KeyOwner | None:
    """The owner of a valid key."""
    row = await (
        await connection.execute("select tenant_id from find_api_key(%s, %s)", [key_id, secret_sha256])
    ).fetchone()
    return None if row is None else KeyOwner(row[0], key_id)
