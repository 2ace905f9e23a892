"""Runs over HTTP, changed, explained, given up; and many at once by a filter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg

from tests.app.api.conftest import Keys, as_problem
from tests.app.api.test_runs import claim, finish

ERROR = '{"type": "ValueError", "message": "bad"}'


async def create(api: httpx.AsyncClient, **fields: Any) -> str:
    response = await api.post("/v1/runs", json={"task": "invoice.send", "args": {"id": 7}, **fields})
    assert response.status_code == 201, response.text
    run_id: str = response.json()["id"]
    return run_id


async def fail(api: httpx.AsyncClient, db: psycopg.Connection, **fields: Any) -> str:
    """The id of a run that failed."""
    run_id = await create(api, **fields)
    claimed, attempt = claim(db)
    assert claimed == int(run_id)
    finish(db, claimed, attempt, "failed", ERROR)
    return run_id


async def test_a_waiting_run_is_changed(api: httpx.AsyncClient, task: str) -> None:
    run_id = await create(api)
    later = datetime(2100, 1, 1, tzinfo=UTC).isoformat()
    changed = await api.patch(f"/v1/runs/{run_id}", json={"priority": 9, "queue": "slow", "run_at": later})
    assert changed.status_code == 200
    run = changed.json()
    assert (run["priority"], run["queue"], run["state"]) == (9, "slow", "scheduled")
    now = await api.patch(f"/v1/runs/{run_id}", json={"run_at": datetime(2000, 1, 1, tzinfo=UTC).isoformat()})
    assert (now.json()["state"], now.json()["priority"]) == ("queued", 9)
    assert (await api.patch(f"/v1/runs/{run_id}", json={})).json() == now.json()


async def test_a_started_run_cannot_be_changed(
    api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection
) -> None:
    run_id = await create(api)
    foreign = {"Authorization": f"Bearer {keys.other}"}
    as_problem(await api.patch(f"/v1/runs/{run_id}", json={"priority": 1}, headers=foreign), 404, "unknown-run")
    claimed, attempt = claim(db)
    as_problem(await api.patch(f"/v1/runs/{run_id}", json={"priority": 1}), 409, "wrong-state")
    finish(db, claimed, attempt, "succeeded", "1")
    as_problem(await api.patch(f"/v1/runs/{run_id}", json={"priority": 1}), 409, "wrong-state")
    problem = as_problem(await api.patch(f"/v1/runs/{run_id}", json={"queue": "a b"}), 422, "invalid-request")
    assert problem["errors"][0]["pointer"] == "/queue"
    as_problem(await api.patch(f"/v1/runs/{run_id}", json={"state": "failed"}), 422, "invalid-request")


async def test_a_run_is_explained(api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection) -> None:
    run_id = await create(api)
    told = await api.get(f"/v1/runs/{run_id}/explanation")
    assert told.json() == {
        "id": run_id,
        "explanation": f"run {run_id} is queued, and no live worker serves its queue mail",
    }
    foreign = {"Authorization": f"Bearer {keys.other}"}
    as_problem(await api.get(f"/v1/runs/{run_id}/explanation", headers=foreign), 404, "unknown-run")


async def test_a_failed_run_is_given_up_and_its_session_goes_on(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    head = await fail(api, db, session="s", order="block")
    behind = await create(api, session="s", order="block")
    assert (await api.get(f"/v1/runs/{behind}")).json()["state"] == "blocked"
    as_problem(await api.post(f"/v1/runs/{behind}/discard"), 409, "wrong-state")
    as_problem(await api.post("/v1/runs/7/discard"), 404, "unknown-run")
    given_up = await api.post(f"/v1/runs/{head}/discard")
    assert (given_up.status_code, given_up.json()) == (200, {"id": head, "status": "discarded"})
    assert (await api.get(f"/v1/runs/{behind}")).json()["state"] == "queued"
    as_problem(await api.post(f"/v1/runs/{head}/discard"), 409, "wrong-state")


async def test_failures_come_back_by_a_filter_in_chunks(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    runs = [await fail(api, db) for _ in range(3)]
    body = {"error": "ValueError", "task": task, "since": "2020-01-01T00:00:00Z"}
    assert (await api.post("/v1/runs/requeue", json={**body, "error": "Other"})).json() == {
        "requeued": 0,
        "more": False,
    }
    assert (await api.post("/v1/runs/requeue", json={"ids": runs[2:]})).json() == {"requeued": 1, "more": False}
    assert (await api.post("/v1/runs/requeue", json={**body, "limit": 1})).json() == {"requeued": 1, "more": True}
    assert (await api.post("/v1/runs/discard", json=body)).json() == {"discarded": 1, "more": False}
    assert [(await api.get(f"/v1/runs/{run}")).json()["state"] for run in runs] == ["queued", "cancelled", "queued"]


async def test_waiting_runs_are_cancelled_by_a_filter(api: httpx.AsyncClient, task: str) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    runs = [await create(api), await create(api, run_at=soon), await create(api, queue="slow")]
    answer = await api.post("/v1/runs/cancel", json={"queue": "mail", "until": soon})
    assert answer.json() == {"cancelled": 2, "requested": 0, "more": False}
    assert [(await api.get(f"/v1/runs/{run}")).json()["state"] for run in runs] == ["cancelled", "cancelled", "queued"]


async def test_a_filter_is_for_the_callers_own_runs(
    api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection
) -> None:
    # Last the one that leaves a run to be claimed.
    for what in ("discard", "cancel", "requeue"):
        run_id = await create(api) if what == "cancel" else await fail(api, db)
        foreign = {"Authorization": f"Bearer {keys.other}"}
        answer = (await api.post(f"/v1/runs/{what}", json={"ids": [run_id]}, headers=foreign)).json()
        assert sum(answer.values()) == 0
        admin = {"Authorization": f"Bearer {keys.admin}"}
        answer = (await api.post(f"/v1/runs/{what}", json={"ids": [run_id]}, headers=admin)).json()
        assert sum(answer.values()) == 1


async def test_a_filter_that_is_not_understood_is_refused(api: httpx.AsyncClient, task: str) -> None:
    for body, pointer in (
        ({"tenant": "other"}, None),
        ({"since": "yesterday"}, "/since"),
        ({"ids": [7]}, "/ids/0"),
        ({"ids": ["x"]}, "/ids/0"),
        ({"limit": 1001}, "/limit"),
        ({"limit": 0}, "/limit"),
    ):
        for what in ("requeue", "discard", "cancel"):
            problem = as_problem(await api.post(f"/v1/runs/{what}", json=body), 422, "invalid-request")
            assert pointer is None or problem["errors"][0]["pointer"].startswith(pointer)
            as_problem(await api.post("/v1/runs/cancel", json={"error": "E"}), 422, "invalid-request")
