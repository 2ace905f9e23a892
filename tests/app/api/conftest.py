"""A real API: uvicorn on a loopback port, on this test's own database, with keys of two tenants and an admin."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from howdah.app.api.serve import Server, make_server
from howdah.app.keys import issue_key
from howdah.app.settings import Settings
from howdah.sql.pool import Connection

MAX_BODY = 100_000
SEND_SCHEMA = """{"type": "object", "properties": {"id": {"type": "integer"}, "to": {"type": "array",
  "items": {"type": "string"}}, "note": {}}, "required": ["id"], "additionalProperties": false}"""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of the tenants acme and other, and of an administrator."""

    acme: str
    other: str
    admin: str


@dataclass(slots=True)
class Running:
    """A server and where it listens."""

    server: Server
    url: str


@pytest.fixture
async def keys(connection: Connection) -> Keys:
    for tenant in ("acme", "other"):
        await connection.execute("select create_tenant(%s)", [tenant])
    return Keys(
        await issue_key(connection, "acme", "test"),
        await issue_key(connection, "other", "test"),
        await issue_key(connection, None, "test"),
    )


@pytest.fixture
def task(db: psycopg.Connection) -> str:
    """A registered task: `id` is needed and whole, `to` is a list of texts, `note` is anything."""
    db.execute(
        "select register_tasks(array['invoice.send', 'invoice.void'], array['task', 'task'], array['mail', 'mail'],"
        " array[%s::text, '{}'], array['', ''])",
        [SEND_SCHEMA],
    )
    return "invoice.send"


@pytest.fixture
def settings() -> Settings:
    return Settings(max_body_bytes=MAX_BODY, api_pool_size=4, shutdown_seconds=2, log_level="warning")


@pytest.fixture
def running(settings: Settings, database_url: str) -> Iterator[Running]:
    """One API process's server, in a thread."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # From here on a client's connection waits until the server takes it.
        listening.listen(100)
        server = make_server(settings, database_url, 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield Running(server, f"http://127.0.0.1:{listening.getsockname()[1]}")
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as opened:
        yield opened


@pytest.fixture
def api(client: httpx.AsyncClient, keys: Keys) -> httpx.AsyncClient:
    """A client of the tenant acme."""
    client.headers["Authorization"] = f"Bearer {keys.acme}"
    return client


@pytest.fixture
def stored(db: psycopg.Connection) -> Callable[[], int]:
    """How many runs and idempotency keys there are, live and in history."""

    def count() -> int:
        row: Any = db.execute(
            "select (select count(*) from run) + (select count(*) from run_history)"
            " + (select count(*) from idempotency_key)"
        ).fetchone()
        number: int = row[0]
        return number

    return count


def as_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem document of an answer, after checking that it is one, of this kind."""
    assert response.status_code == status, f"{response.request.method} {response.request.url}: {response.text}"
    assert response.headers["content-type"].split(";")[0] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:howdah:problem:{slug}", problem
    assert problem["title"]
    assert problem["detail"]
    return problem
