"""API keys: `hwd_<id>_<secret>`. The secret is shown once; the database keeps its SHA-256."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from howdah.app.recent import Recent
from howdah.sql.pool import Connection, Pool
from howdah.sql.tenancy.calls import KeyOwner, create_api_key, find_api_key

# 256 bits of secret need no slow hash: nobody guesses one.
_TEXT = re.compile(r"hwd_([0-9a-f]{16})_([0-9a-f]{64})")
# A revoked key opens nothing after this long, whichever process revoked it.
FRESH_SECONDS = 5.0
# Some 200 bytes a key in use: 2 MB at most.
MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made; `text` is what its owner sends."""

    id: str
    secret: str

    @property
    def text(self) -> str:
        return f"hwd_{self.id}_{self.secret}"


def new_api_key() -> NewKey:
    """A random key, not stored yet."""
    return NewKey(secrets.token_hex(8), secrets.token_hex(32))


async def store_key(connection: Connection, key: NewKey, tenant_id: str | None, name: str) -> None:
    """Make `key` valid for a tenant, or (None) for administrators.

    Raises
    ------
    psycopg.Error
        With SQLSTATE HW009 if there is no such tenant.
    """
    await create_api_key(connection, key.id, tenant_id, name, _hash(key.secret))


async def issue_key(connection: Connection, tenant_id: str | None, name: str) -> str:
    """Make and store a key; its text, which cannot be read again."""
    key = new_api_key()
    await store_key(connection, key, tenant_id, name)
    return key.text


class KeyRing:
    """Finds the owner of a key, and remembers the answer for :data:`FRESH_SECONDS`."""

    def __init__(self, pool: Pool, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._owners = Recent(self._find, seconds=FRESH_SECONDS, max_entries=MAX_REMEMBERED, clock=clock)

    async def owner(self, text: str) -> KeyOwner | None:
        """Whose key `text` is; None where it is malformed, unknown, revoked, or has another secret."""
        match = _TEXT.fullmatch(text)
        return None if match is None else await self._owners.get((match[1], _hash(match[2])))

    def forget(self) -> None:
        """Ask the database again at each key's next use."""
        self._owners.clear()

    async def _find(self, key: tuple[str, bytes]) -> KeyOwner | None:
        async with self._pool.connection() as connection:
            return await find_api_key(connection, *key)


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
