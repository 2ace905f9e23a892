"""Keys: who has none gets nothing, a revoked one stops working, a tenant's key opens only what is its own."""

from __future__ import annotations

import httpx
import psycopg

from howdah.app.keys import KeyRing, issue_key, new_api_key
from howdah.sql.pool import Connection, Pool
from tests.app.api.conftest import Keys, as_problem

KEYED = ("/v1/runs", "/v1/tenants", "/v1/queues", "/v1/models", "/v1/sessions", "/v1/collections")


async def test_without_a_key_nothing_is_shown(client: httpx.AsyncClient) -> None:
    for path in KEYED:
        response = await client.get(path)
        as_problem(response, 401, "key-missing")
        assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_wrong_key_is_refused(client: httpx.AsyncClient, keys: Keys) -> None:
    wrong = [new_api_key().text, keys.acme[:-1] + "x", keys.acme[:-1], f"hwd_{keys.acme}", "x"]
    # The right secret under another key's id.
    wrong.append("_".join([*keys.acme.split("_")[:2], keys.other.split("_")[2]]))
    for key in wrong:
        response = await client.get("/v1/runs", headers={"Authorization": f"Bearer {key}"})
        as_problem(response, 401, "key-wrong")
        assert "invalid_token" in response.headers["www-authenticate"]
    as_problem(await client.get("/v1/runs", headers={"Authorization": f"Basic {keys.acme}"}), 401, "key-missing")


async def test_a_request_is_refused_before_its_body_is_looked_at(client: httpx.AsyncClient) -> None:
    as_problem(await client.post("/v1/runs", content=b"{"), 401, "key-missing")


async def test_a_key_revoked_here_opens_nothing_from_now_on(client: httpx.AsyncClient, keys: Keys) -> None:
    admin, acme = ({"Authorization": f"Bearer {key}"} for key in (keys.admin, keys.acme))
    assert (await client.get("/v1/runs", headers=acme)).status_code == 200
    key_id = keys.acme.split("_")[1]
    assert (await client.delete(f"/v1/tenants/acme/keys/{key_id}", headers=admin)).status_code == 204
    as_problem(await client.get("/v1/runs", headers=acme), 401, "key-wrong")


async def test_a_key_revoked_elsewhere_opens_nothing_after_five_seconds(pool: Pool, connection: Connection) -> None:
    now = 1000.0
    text = await issue_key(connection, None, "test")
    ring = KeyRing(pool, clock=lambda: now)
    assert await ring.owner(text) is not None
    await connection.execute("select revoke_api_key(null, %s)", [text.split("_")[1]])
    now += 4.9
    assert await ring.owner(text) is not None
    now += 0.2
    assert await ring.owner(text) is None


async def test_tenants_are_for_administrators(api: httpx.AsyncClient) -> None:
    as_problem(await api.get("/v1/tenants"), 403, "admin-only")
    as_problem(await api.post("/v1/tenants", json={"id": "mine"}), 403, "admin-only")
    as_problem(await api.post("/v1/tenants/acme/keys", json={}), 403, "admin-only")


async def test_a_tenants_key_does_not_act_for_another_tenant(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/runs", headers={"Howdah-Tenant": "acme"})).status_code == 200
    # The same answer whether that tenant exists or not.
    for tenant in ("other", "nobody"):
        as_problem(await api.get("/v1/runs", headers={"Howdah-Tenant": tenant}), 404, "unknown-tenant")


async def test_only_the_hash_of_a_secret_is_stored(keys: Keys, db: psycopg.Connection) -> None:
    secret = keys.acme.split("_")[2]
    rows = db.execute("select k::text from api_key as k").fetchall()
    assert len(rows) == 3
    assert all(secret not in row[0] for row in rows)
