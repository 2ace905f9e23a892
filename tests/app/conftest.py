"""An API per test, over real HTTP, with a key of the tenant acme."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import psycopg
import pytest

from howdah.app.keys import new_api_key
from tests.app.api_servers import api_thread, client_for


@pytest.fixture
def api_url(database_url: str) -> Iterator[str]:
    """Where this test's API is."""
    with api_thread(database_url) as url:
        yield url


@pytest.fixture
def acme_key(db: psycopg.Connection) -> str:
    """A key of the tenant acme, which this makes."""
    db.execute("select create_tenant('acme')")
    return issue(db, "acme")


@pytest.fixture
def acme(api_url: str, acme_key: str) -> Iterator[httpx.Client]:
    """A client with a key of acme."""
    with client_for(api_url, acme_key) as client:
        yield client


@pytest.fixture
def other(api_url: str, db: psycopg.Connection) -> Iterator[httpx.Client]:
    """A client with a key of another tenant."""
    db.execute("select create_tenant('other')")
    with client_for(api_url, issue(db, "other")) as client:
        yield client


def issue(db: psycopg.Connection, tenant_id: str | None) -> str:
    """A new key of a tenant, or (None) of an administrator."""
    key = new_api_key()
    db.execute("select create_api_key(%s, %s, 'test', sha256(%s))", [key.id, tenant_id, key.secret.encode()])
    return key.text
