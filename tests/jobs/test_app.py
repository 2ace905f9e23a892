"""Declaring and sending: what the author's signature says is what the engine holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from howdah.jobs import App, Run
from howdah.jobs.signature import Signature
from howdah.sql.errors import BadValue, IdempotencyConflict, UnknownTenant
from howdah.sql.pool import Connection
from tests.sql.engine import rows


@dataclass
class Address:
    city: str
    zip: str | None = None


class Order(msgspec.Struct):
    id: int
    to: Address


@pytest.fixture
def sent(app: App) -> Any:
    @app.workflow(name="orders.send", queue="orders")
    async def send(run: Run, order: Order, at: datetime, urgent: bool = False) -> None:
        """Send an order.

        More words.
        """

    return send


ORDER = Order(7, Address("Kyiv"))
AT = datetime(2030, 1, 2, tzinfo=UTC)


async def test_an_enqueued_run_is_in_the_queue_with_its_arguments(connection: Connection, sent: Any) -> None:
    run_id = await sent.enqueue_in(connection, ORDER, at=AT)
    assert await rows(connection, "select id, queue, task, tenant_id, args, state from run") == [
        (
            run_id,
            "orders",
            "orders.send",
            "default",
            {"order": {"id": 7, "to": {"city": "Kyiv", "zip": None}}, "at": "2030-01-02T00:00:00Z"},
            "queued",
        )
    ]


async def test_enqueue_on_the_open_app_commits_by_itself(app: App, connection: Connection, sent: Any) -> None:
    async with app.open_async():
        run_id = await sent.enqueue(ORDER, AT)
    assert await rows(connection, "select id from run") == [run_id]


async def test_an_enqueue_in_a_rolled_back_transaction_did_not_happen(connection: Connection, sent: Any) -> None:
    async with connection.transaction(force_rollback=True):
        await sent.enqueue_in(connection, ORDER, AT)
    assert await rows(connection, "select id from run") == []


async def test_options_go_with_the_run(connection: Connection, sent: Any) -> None:
    await connection.execute("select * from create_tenant('acme')")
    later = datetime.now(UTC) + timedelta(hours=1)
    configured = sent.configure(tenant="acme", session="case-7", queue="slow", priority=3, run_at=later)
    await configured.enqueue_in(connection, ORDER, AT)
    query = "select tenant_id, session_id, queue, priority, run_at, state from run"
    assert await rows(connection, query) == [("acme", "case-7", "slow", 3, later, "scheduled")]


async def test_a_key_for_the_same_request_gives_the_same_run_and_for_another_is_refused(
    connection: Connection, sent: Any
) -> None:
    keyed = sent.configure(idempotency_key="k")
    assert await keyed.enqueue_in(connection, ORDER, AT) == await keyed.enqueue_in(connection, ORDER, AT)
    with pytest.raises(IdempotencyConflict, match="'k' was used for another"):
        await keyed.enqueue_in(connection, ORDER, AT, urgent=True)


async def test_an_unknown_tenant_is_refused_by_name(connection: Connection, sent: Any) -> None:
    with pytest.raises(UnknownTenant, match="'nobody'"):
        await sent.configure(tenant="nobody").enqueue_in(connection, ORDER, AT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": ORDER}, "at"),
        ({"order": ORDER, "at": AT, "other": 1}, "other"),
        ({"order": {"id": "x", "to": {"city": "a"}}, "at": AT}, "order.id"),
        ({"order": ORDER, "at": "tomorrow"}, r"\$\.at"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_they_are_sent(
    sent: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        sent.new_run(**arguments)


@pytest.mark.parametrize("value", [float("nan"), "\ud800", "a\0"])
def test_arguments_that_cannot_be_stored_are_refused_before_they_are_sent(app: App, value: Any) -> None:
    @app.workflow(name="any")
    async def anything(run: Run, value: Any) -> None: ...

    with pytest.raises(BadValue, match="the arguments of 'any'"):
        anything.new_run(value)


def test_arguments_are_decoded_to_the_annotated_types(sent: Any) -> None:
    decoded = sent.signature.decode(sent.new_run(ORDER, AT).args)
    assert decoded == {"order": ORDER, "at": AT, "urgent": False}


def test_the_registry_tells_name_queue_schema_and_first_line(sent: Any, app: App) -> None:
    entry = next(entry for entry in app.task_entries() if entry.name == "orders.send")
    assert (entry.kind, entry.queue, entry.description) == ("workflow", "orders", "Send an order.")
    schema = json.loads(entry.args_schema)
    assert schema["type"] == "object"
    assert schema["required"] == ["order", "at"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["at"]["type"] == "string"
    assert schema["$defs"]["Address"]["required"] == ["city"]


def test_a_default_is_made_anew_for_each_run() -> None:
    def task(names: list[str] = []) -> None:  # noqa: B006 - what is tested
        ...

    signature = Signature(task, skip=0)
    assert signature.decode("{}") == {"names": []}


def test_unknown_arguments_are_refused_unless_the_function_takes_any() -> None:
    def strict(a: int) -> None: ...
    def open_ended(a: int, **more: Any) -> None: ...

    with pytest.raises(msgspec.ValidationError, match="unknown field `b`"):
        Signature(strict, skip=0).decode('{"a": 1, "b": 2}')
    assert Signature(open_ended, skip=0).decode('{"a": 1, "b": 2}') == {"a": 1}


def test_positional_arguments_are_refused_when_declared(app: App) -> None:
    async def wrong(run: Run, *many: int) -> None: ...

    with pytest.raises(TypeError, match="'many' is positional only"):
        app.workflow(name="w")(wrong)


def test_a_workflow_that_is_not_async_is_refused_when_declared(app: App) -> None:
    def plain(run: Run) -> None: ...

    with pytest.raises(TypeError, match="must be an async function"):
        app.workflow(name="w")(plain)  # type: ignore[arg-type]


def test_a_name_is_taken_once(app: App, sent: Any) -> None:
    async def other(run: Run) -> None: ...

    with pytest.raises(ValueError, match=r"named 'orders\.send' already"):
        app.workflow(name="orders.send")(other)


def test_a_workflow_with_open_ended_arguments_is_refused_when_declared(app: App) -> None:
    async def loose(run: Run, **more: int) -> None: ...

    with pytest.raises(TypeError, match="takes \\*\\*arguments"):
        app.workflow(name="w")(loose)
