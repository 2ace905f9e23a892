"""Tenants, keys, queues and models over HTTP."""

from __future__ import annotations

from decimal import Decimal

import httpx
import psycopg
import pytest

from howdah.sql.models.calls import ModelEntry, register_models
from howdah.sql.pool import Connection
from tests.app.api.conftest import Keys, as_problem


@pytest.fixture
def admin(client: httpx.AsyncClient, keys: Keys) -> httpx.AsyncClient:
    client.headers["Authorization"] = f"Bearer {keys.admin}"
    return client


async def test_a_tenant_is_made_once(admin: httpx.AsyncClient) -> None:
    created = await admin.post("/v1/tenants", json={"id": "new-co", "name": "New & Co"})
    assert created.status_code == 201
    assert created.headers["location"] == "/v1/tenants/new-co"
    again = await admin.post("/v1/tenants", json={"id": "new-co", "name": "Another name"})
    assert (again.status_code, again.json()) == (200, created.json())
    assert (await admin.get("/v1/tenants/new-co")).json() == created.json()
    as_problem(await admin.get("/v1/tenants/nobody"), 404, "unknown-tenant")


async def test_a_tenants_id_of_another_form_is_refused(admin: httpx.AsyncClient) -> None:
    for tenant_id in ("", "UPPER", "-x", "a b", "x" * 64, "ä", "a/b", "a\n", 7, None):
        problem = as_problem(await admin.post("/v1/tenants", json={"id": tenant_id}), 422, "invalid-request")
        assert problem["errors"][0]["pointer"] == "/id"


async def test_tenants_are_listed_in_pages(admin: httpx.AsyncClient) -> None:
    first = (await admin.get("/v1/tenants", params={"limit": 2})).json()
    rest = (await admin.get("/v1/tenants", params={"limit": 2, "cursor": first["next"]})).json()
    assert [tenant["id"] for tenant in first["items"] + rest["items"]] == ["acme", "default", "other"]
    assert rest["next"] is None


async def test_a_keys_secret_is_shown_once_and_works(admin: httpx.AsyncClient) -> None:
    created = await admin.post("/v1/tenants/acme/keys", json={"name": "laptop"})
    assert created.status_code == 201
    assert created.headers["cache-control"] == "no-store"
    key = created.json()
    headers = {"Authorization": f"Bearer {key['key']}"}
    assert (await admin.get("/v1/runs", headers=headers)).status_code == 200
    listed = await admin.get("/v1/tenants/acme/keys")
    assert key["id"] in [entry["id"] for entry in listed.json()["items"]]
    assert key["key"].split("_")[2] not in listed.text


async def test_a_key_is_made_and_revoked_only_for_its_tenant(admin: httpx.AsyncClient, keys: Keys) -> None:
    as_problem(await admin.post("/v1/tenants/nobody/keys", json={}), 404, "unknown-tenant")
    as_problem(await admin.get("/v1/tenants/nobody/keys"), 404, "unknown-tenant")
    as_problem(await admin.delete(f"/v1/tenants/other/keys/{keys.acme.split('_')[1]}"), 404, "unknown-key")
    assert (await admin.get("/v1/runs", headers={"Authorization": f"Bearer {keys.acme}"})).status_code == 200


async def test_depths_are_the_callers_own(
    api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection
) -> None:
    for tenant, queue, count in (("acme", "mail", 2), ("other", "mail", 3), ("other", "secret-name", 1)):
        for _ in range(count):
            db.execute("select enqueue_run(%s, 'invoice.void', '{}', %s)", [tenant, queue])
    db.execute("select enqueue_run('acme', 'invoice.void', p_run_at => now() + interval '1 hour')")
    own = (await api.get("/v1/queues")).json()["items"]
    # Not the name of a queue that only another tenant uses.
    (mail,) = own
    assert [mail[name] for name in ("queue", "queued", "scheduled", "blocked", "running")] == ["mail", 2, 1, 0, 0]
    everyones = (await api.get("/v1/queues", headers={"Authorization": f"Bearer {keys.admin}"})).json()["items"]
    assert [(depth["queue"], depth["queued"]) for depth in everyones] == [("mail", 5), ("secret-name", 1)]


async def test_models_have_openais_shape(api: httpx.AsyncClient, connection: Connection) -> None:
    price = Decimal("0.15")
    await register_models(
        connection,
        [
            ModelEntry("org/deep", "chat", "openai", 128_000, 4_096, price, price * 4, ("deep",), 7),
            ModelEntry("small", "embedding", "builtin", 8_000, 0, None, None, (), 1),
            ModelEntry("gone", "chat", "builtin", 8_000, 0, None, None, (), 1),
        ],
    )
    await connection.execute("update model set enabled = false where name = 'gone'")
    listed = (await api.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["org/deep", "small"]
    model = (await api.get("/v1/models/org/deep")).json()
    assert model == listed["data"][0]
    assert (model["object"], model["owned_by"]) == ("model", "openai")
    assert isinstance(model["created"], int)
    assert Decimal(model["howdah"]["input_price"]) == price
    as_problem(await api.get("/v1/models/gone"), 404, "unknown-model")
