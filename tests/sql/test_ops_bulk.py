"""Many runs at once, by a filter: those that fit and no others, in chunks, until there are no more."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from howdah.sql.errors import BadValue, from_psycopg
from howdah.sql.pool import Connection
from tests.sql.engine import claim, enqueue, outcome, rows, running, value, write

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def operator(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        opened.execute("set search_path = public")
        yield opened


async def fail(connection: Connection, count: int = 1, error: str = "ValueError", **fields: Any) -> list[int]:
    """Ids of runs that failed."""
    await enqueue(connection, count, **fields)
    runs = await claim(connection, queue=fields.get("queue") or "default")
    await write(connection, *(outcome(run, "failed", f'{{"type": "{error}"}}') for run in runs))
    return sorted(run.id for run in runs)


async def test_failures_come_back_in_chunks_until_there_are_no_more(
    connection: Connection, operator: psycopg.Connection
) -> None:
    await fail(connection, 5)
    chunks = [operator.execute("select * from ops.requeue_failed('{}', 2)").fetchone() for _ in range(4)]
    assert chunks == [(2, True), (2, True), (1, False), (0, False)]
    assert len(await claim(connection)) == 5


@pytest.mark.parametrize("key", ["queue", "task", "tenant", "error", "since", "until", "ids"])
async def test_only_failures_that_fit_come_back(connection: Connection, operator: psycopg.Connection, key: str) -> None:
    await connection.execute("select create_tenant('acme')")
    (old,) = await fail(connection)
    middle = await value(connection, "select clock_timestamp()::text")
    await fail(connection, queue="mail", task="send", tenant="acme", error="Refused")
    (new,) = set(await rows(connection, "select id from run_history")) - {old}
    filters: dict[str, tuple[Any, int]] = {
        "queue": ("mail", new),
        "task": ("send", new),
        "tenant": ("acme", new),
        "error": ("Refused", new),
        "since": (middle, new),
        "until": (middle, old),
        "ids": ([str(old)], old),
    }
    wanted, run = filters[key]
    query = "select * from ops.requeue_failed(%s)"
    assert operator.execute(query, [Jsonb({key: wanted})]).fetchall() == [(1, False)]
    assert await rows(connection, "select id from run") == [run]


async def test_failures_are_given_up_together_and_their_sessions_go_on(
    connection: Connection, operator: psycopg.Connection
) -> None:
    (head,) = await running(connection, session_id="s", order="block")
    (behind,) = await enqueue(connection, session_id="s", order="block")
    await write(connection, outcome(head, "failed", '{"type": "Oops"}'))
    assert await claim(connection) == []
    assert operator.execute("""select * from ops.discard_failed('{"error": "Oops"}')""").fetchall() == [(1, False)]
    assert [run.id for run in await claim(connection)] == [behind]


async def test_what_waits_is_cancelled_and_what_runs_is_not(
    connection: Connection, operator: psycopg.Connection
) -> None:
    (started,) = await running(connection)
    await enqueue(connection, 2)
    await enqueue(connection, run_at=FAR)
    await enqueue(connection, 3, session_id="s", order="skip")
    await enqueue(connection, queue="mail")
    query = """select * from ops.cancel_queued('{"queue": "default"}', 4)"""
    assert operator.execute(query).fetchall() == [(4, 0, True)]
    assert operator.execute(query).fetchall() == [(2, 0, False)]
    assert await rows(connection, "select queue, state from run order by id") == [
        ("default", "running"),
        ("mail", "queued"),
    ]
    assert started.id == await value(connection, "select id from run where state = 'running'")


def test_a_filter_that_is_not_understood_touches_nothing(operator: psycopg.Connection) -> None:
    for call, says in (
        ("""requeue_failed('{"queu": "mail"}')""", "unknown key 'queu'"),
        ("requeue_failed('[]')", "the filter is array"),
        ("discard_failed(null)", "the filter is null"),
        ("""discard_failed('{"ids": 7}')""", "ids are 7"),
        ("requeue_failed('{}', 0)", "the limit is 0"),
        ("requeue_failed('{}', 10001)", "the limit is 10001"),
        ("""cancel_queued('{"error": "Oops"}')""", "unknown key 'error'"),
    ):
        with pytest.raises(psycopg.Error, match=says) as refused:
            operator.execute(f"select * from ops.{call}".encode())
        assert isinstance(from_psycopg(refused.value), BadValue)
