"""What administrators set over HTTP: limits of queues, weights of tenants, and pauses."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from tests.app.api.conftest import Keys, as_problem

NO_LIMITS = {
    "paused": False,
    "max_running": None,
    "max_running_per_tenant": None,
    "starts_per_period": None,
    "period_s": None,
    "max_queued": None,
    "max_queued_per_tenant": None,
}


@pytest.fixture
def admin(client: httpx.AsyncClient, keys: Keys) -> httpx.AsyncClient:
    client.headers["Authorization"] = f"Bearer {keys.admin}"
    return client


async def test_a_queues_limits_are_merged(admin: httpx.AsyncClient, task: str) -> None:
    before = (await admin.get("/v1/queues/mail")).json()
    assert before == {"queue": "mail", "queued": 0, "scheduled": 0, "blocked": 0, "running": 0, **NO_LIMITS}
    some = {"max_running": 5, "starts_per_period": 10, "period_s": 0.5}
    assert (await admin.patch("/v1/queues/mail", json=some)).json() == {**before, **some}
    changed = await admin.patch("/v1/queues/mail", json={"max_running": None, "max_queued": 7, "paused": True})
    after = {**before, **some, "max_running": None, "max_queued": 7, "paused": True}
    assert (changed.status_code, changed.json()) == (200, after)
    assert (await admin.patch("/v1/queues/mail", json={"paused": False})).json() == {**after, "paused": False}
    assert (await admin.patch("/v1/queues/mail", json={})).json() == {**after, "paused": False}


async def test_limits_may_come_before_the_queue(admin: httpx.AsyncClient) -> None:
    as_problem(await admin.get("/v1/queues/new"), 404, "unknown-queue")
    assert (await admin.patch("/v1/queues/new", json={"max_running": 1})).status_code == 200
    assert (await admin.get("/v1/queues/new")).json()["max_running"] == 1


async def test_a_queue_of_another_tenant_is_unknown(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    db.execute("select enqueue_run('other', 'invoice.void', '{}', 'secret-name')")
    as_problem(await api.get("/v1/queues/secret-name"), 404, "unknown-queue")
    assert (await api.get("/v1/queues/mail")).status_code == 200


async def test_a_limit_that_makes_no_sense_is_refused(admin: httpx.AsyncClient, task: str) -> None:
    for body, pointer in (
        ({"max_runing": 5}, None),
        ({"max_running": -1}, "/max_running"),
        ({"max_running": 1.5}, "/max_running"),
        ({"max_running": "5"}, "/max_running"),
        ({"period_s": 0}, "/period_s"),
        ({"paused": None}, "/paused"),
    ):
        problem = as_problem(await admin.patch("/v1/queues/mail", json=body), 422, "invalid-request")
        assert pointer is None or problem["errors"][0]["pointer"] == pointer


async def test_what_the_engine_refuses_leaves_all_as_it_was(admin: httpx.AsyncClient, task: str) -> None:
    as_problem(await admin.patch("/v1/queues/mail", json={"period_s": 5, "paused": True}), 422, "bad-value")
    as_problem(await admin.patch("/v1/queues/a b", json={"max_running": 5}), 422, "bad-value")
    assert not (await admin.get("/v1/queues/mail")).json()["paused"]


async def test_a_tenants_weight_and_pause_are_set(admin: httpx.AsyncClient) -> None:
    before = (await admin.get("/v1/tenants/acme")).json()
    assert (before["weight"], before["paused"]) == (1, False)
    changed = await admin.patch("/v1/tenants/acme", json={"weight": 2.5, "paused": True})
    assert (changed.status_code, changed.json()) == (200, {**before, "weight": 2.5, "paused": True})
    assert (await admin.patch("/v1/tenants/acme", json={"paused": False})).json() == {**before, "weight": 2.5}
    as_problem(await admin.patch("/v1/tenants/nobody", json={"paused": True}), 404, "unknown-tenant")
    as_problem(await admin.patch("/v1/tenants/nobody", json={}), 404, "unknown-tenant")
    problem = as_problem(await admin.patch("/v1/tenants/acme", json={"weight": 0}), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/weight"


async def test_a_paused_task_does_not_start(admin: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    db.execute("select enqueue_run('acme', 'invoice.void', '{}')")
    claims = "select count(*) from register_worker('w', '{mail}') as w, claim_runs(w.worker_id, '{mail}', 10)"
    paused = await admin.post("/v1/tasks/invoice.void/pause")
    assert (paused.status_code, paused.json()) == (200, {"task": "invoice.void", "paused": True})
    assert db.execute(claims).fetchall() == [(0,)]
    assert (await admin.post("/v1/tasks/invoice.void/resume")).json() == {"task": "invoice.void", "paused": False}
    assert db.execute(claims).fetchall() == [(1,)]
    as_problem(await admin.post("/v1/tasks/nothing/pause"), 404, "unknown-task")


async def test_controls_are_for_administrators(api: httpx.AsyncClient, task: str) -> None:
    as_problem(await api.patch("/v1/queues/mail", json={"paused": True}), 403, "admin-only")
    as_problem(await api.patch("/v1/tenants/acme", json={"weight": 9}), 403, "admin-only")
    as_problem(await api.post(f"/v1/tasks/{task}/pause"), 403, "admin-only")


async def test_what_workers_have_registered_is_told_to_any_tenant(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    db.execute(
        "select register_tasks(array['mail.sort@2'], array['workflow'], array['sorting'],"
        """ array['{"required": ["box"]}'], array['Sort a box.'])"""
    )
    db.execute("select pause_task(name) from unnest(array['invoice.void', 'mail.sort@2']) as name")
    listed = {item["task"]: item for item in (await api.get("/v1/tasks")).json()["items"]}
    assert sorted(listed) == list(listed) == ["invoice.send", "invoice.void", "mail.sort", "mail.sort@2"]
    assert listed[task]["queue"] == "mail"
    assert listed[task]["args_schema"]["required"] == ["id"]
    assert (listed[task]["paused"], listed["invoice.void"]["paused"]) == (False, True)
    newest = {
        "kind": "workflow",
        "queue": "sorting",
        "description": "Sort a box.",
        "args_schema": {"required": ["box"]},
    }
    assert listed["mail.sort"] == {**newest, "task": "mail.sort", "paused": True}


async def test_how_long_a_tenants_events_are_kept_is_set_and_set_back(admin: httpx.AsyncClient) -> None:
    assert (await admin.patch("/v1/tenants/acme", json={"event_days": 7})).json()["event_days"] == 7
    assert (await admin.patch("/v1/tenants/acme", json={"paused": False})).json()["event_days"] == 7, "left out: stays"
    assert (await admin.patch("/v1/tenants/acme", json={"event_days": None})).json()["event_days"] is None
    for days in (0, 36_501, "7", 1.5):
        as_problem(await admin.patch("/v1/tenants/acme", json={"event_days": days}), 422, "invalid-request")
    as_problem(await admin.patch("/v1/tenants/nobody", json={"event_days": 1}), 404, "unknown-tenant")
