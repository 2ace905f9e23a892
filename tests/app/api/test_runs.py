"""Runs over HTTP: created, found live and in history, listed, waited for, cancelled, brought back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from tests.app.api.conftest import Keys, Running, as_problem


def claim(db: psycopg.Connection, queue: str = "mail") -> tuple[int, int]:
    """A worker claims one run: (its id, the attempt)."""
    row = db.execute("select worker_id from register_worker('test', array[%s])", [queue]).fetchone()
    assert row is not None
    run = db.execute("select run_id, attempt from claim_runs(%s, array[%s], 1)", [row[0], queue]).fetchone()
    assert run is not None
    return run[0], run[1]


def finish(db: psycopg.Connection, run_id: int, attempt: int, outcome: str, body: str) -> None:
    """Its worker says how it ended."""
    status = db.execute(
        "select status from flush(array[%s]::bigint[], array[%s]::integer[], array['outcome'], array[%s], array[%s],"
        " array[null], array[null]::timestamptz[])",
        [run_id, attempt, outcome, body],
    ).fetchone()
    assert status == ("ok",)


async def test_a_created_run_is_on_disk_and_found(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    body = {"task": task, "args": {"id": 7}, "priority": 3, "session": "case-7", "unique_key": "u"}
    response = await api.post("/v1/runs", json=body)
    assert response.status_code == 201
    run = response.json()
    assert response.headers["location"] == f"/v1/runs/{run['id']}"
    assert isinstance(run["id"], str)
    assert db.execute("select id, tenant_id, queue, session_id, unique_key from run").fetchall() == [
        (int(run["id"]), "acme", "mail", "case-7", "u")
    ]
    # What was answered without a look at the table is what a look shows.
    assert (await api.get(response.headers["location"])).json() == run


async def test_a_run_in_the_future_is_scheduled(api: httpx.AsyncClient, task: str) -> None:
    for later, state in ((timedelta(hours=1), "scheduled"), (-timedelta(hours=1), "queued")):
        run_at = (datetime.now(UTC) + later).isoformat()
        run = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}, "run_at": run_at})).json()
        assert run["state"] == state
        assert (await api.get(f"/v1/runs/{run['id']}")).json() == run


async def test_a_run_with_a_queue_of_its_own_goes_there(api: httpx.AsyncClient, task: str) -> None:
    run = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}, "queue": "slow"})).json()
    assert run["queue"] == "slow"


async def test_the_same_idempotency_key_gives_the_same_run(api: httpx.AsyncClient, task: str) -> None:
    headers = {"Idempotency-Key": "k-1"}
    body = {"task": task, "args": {"id": 7, "to": ["a"]}}
    first = await api.post("/v1/runs", json=body, headers=headers)
    again = await api.post("/v1/runs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert again.headers["location"] == first.headers["location"]
    problem = as_problem(
        await api.post("/v1/runs", json={"task": task, "args": {"id": 8}}, headers=headers), 422, "idempotency-conflict"
    )
    assert problem["code"] == "HW003"


async def test_a_hundred_at_once_with_one_key_make_one_run(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    body = {"task": task, "args": {"id": 7}}
    sent = [api.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"}) for _ in range(100)]
    responses = await asyncio.gather(*sent)
    assert sorted({response.status_code for response in responses}) == [200, 201]
    assert len({response.json()["id"] for response in responses}) == 1
    assert db.execute("select count(*) from run").fetchone() == (1,)


async def test_a_uniqueness_key_is_refused_while_it_is_queued(api: httpx.AsyncClient, task: str) -> None:
    body = {"task": task, "args": {"id": 7}, "unique_key": "u"}
    assert (await api.post("/v1/runs", json=body)).status_code == 201
    assert as_problem(await api.post("/v1/runs", json=body), 409, "not-unique")["code"] == "HW005"


async def test_in_a_batch_each_item_has_its_own_result(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    good = {"task": task, "args": {"id": 7}, "idempotency_key": "k"}
    items = [
        good,
        {"task": "invoice.unknown"},
        {"task": task, "args": {"id": "x"}},
        good,
        {**good, "args": {"id": 8}},
        {"task": "invoice.void", "args": {"anything": [1, 2.5, None]}},
        7,
    ]
    response = await api.post("/v1/runs/batch", json={"runs": items})
    results = response.json()["items"]
    assert [result["index"] for result in results] == list(range(7))
    assert [result["status"] for result in results] == [201, 404, 422, 200, 422, 201, 422]
    assert results[0]["run"]["id"] == results[3]["run"]["id"]
    assert results[2]["problem"]["errors"][0]["pointer"] == "/runs/2/args/id"
    assert results[6]["problem"]["errors"][0]["pointer"] == "/runs/6"
    assert db.execute("select count(*) from run").fetchone() == (2,)


async def test_an_empty_batch_is_fine(api: httpx.AsyncClient) -> None:
    assert (await api.post("/v1/runs/batch", json={"runs": []})).json() == {"items": []}


async def test_a_finished_run_is_found_in_history(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    claimed, attempt = claim(db)
    running = (await api.get(f"/v1/runs/{run_id}")).json()
    assert (running["state"], running["attempt"], running["finished_at"]) == ("running", 1, None)
    finish(db, claimed, attempt, "succeeded", '{"pages": 3, "exact": 1.10}')
    response = await api.get(f"/v1/runs/{run_id}")
    run = response.json()
    assert (run["state"], run["output"], run["error"]) == ("succeeded", {"pages": 3, "exact": 1.1}, None)
    assert "1.10" in response.text
    assert run["started_at"] <= run["finished_at"]
    assert run["created_at"] <= run["started_at"]


async def test_who_waits_for_a_run_is_answered_when_it_is_over(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    waiting = [asyncio.create_task(api.get(f"/v1/runs/{run_id}", params={"wait": 60})) for _ in range(20)]
    claimed, attempt = await asyncio.to_thread(claim, db)
    await asyncio.to_thread(finish, db, claimed, attempt, "failed", '{"type": "Boom"}')
    for response in await asyncio.wait_for(asyncio.gather(*waiting), 30):
        assert response.json()["state"] == "failed"
        assert response.json()["error"] == {"type": "Boom"}


async def test_when_the_wait_is_over_the_run_is_answered_as_it_is(api: httpx.AsyncClient, task: str) -> None:
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    assert (await api.get(f"/v1/runs/{run_id}", params={"wait": 0.05})).json()["state"] == "queued"
    as_problem(await api.get(f"/v1/runs/{run_id}", params={"wait": 61}), 400, "invalid-request")


async def test_a_process_that_stops_answers_those_who_wait(api: httpx.AsyncClient, running: Running, task: str) -> None:
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    waiting = asyncio.create_task(api.get(f"/v1/runs/{run_id}", params={"wait": 60}))
    resources = running.server.app.state.resources
    while not resources.waiter.count:  # noqa: ASYNC110 - the count is another thread's
        await asyncio.sleep(0.005)
    running.server.handle_exit(15, None)
    response = await asyncio.wait_for(waiting, 20)
    assert response.json()["state"] == "queued"


async def test_pages_show_every_run_once_newest_first(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    created = await api.post("/v1/runs/batch", json={"runs": [{"task": task, "args": {"id": n}} for n in range(25)]})
    ids = [item["run"]["id"] for item in created.json()["items"]]
    for _ in range(10):  # Some in history, some live: the list does not show the seam.
        finish(db, *claim(db), "succeeded", "1")
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(9):
        page = (await api.get("/v1/runs", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [run["id"] for run in page["items"]]
        cursor = page["next"]
    assert cursor is None
    assert seen == sorted(ids, key=int, reverse=True)


async def test_filters_leave_only_what_was_asked_for(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    await api.post("/v1/runs", json={"task": "invoice.void", "queue": "slow", "session": "case-7"})
    for n in range(2):
        await api.post("/v1/runs", json={"task": task, "args": {"id": n}})
    finish(db, *claim(db), "succeeded", "1")

    async def count(**filters: str) -> int:
        return len((await api.get("/v1/runs", params=filters)).json()["items"])

    assert await count() == 3
    assert await count(state="succeeded") == 1
    assert await count(state="queued") == 2
    assert await count(state="failed") == 0
    assert await count(queue="slow") == 1
    assert await count(task=task) == 2
    assert await count(session="case-7") == 1
    assert await count(session="case-7", task=task) == 0


async def test_an_idle_run_is_cancelled_at_once_and_a_running_one_is_asked_to_stop(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    running, idle = [
        (await api.post("/v1/runs", json={"task": task, "args": {"id": n}})).json()["id"] for n in range(2)
    ]
    assert claim(db)[0] == int(running)
    requested = await api.post(f"/v1/runs/{running}/cancel")
    assert (requested.status_code, requested.json()) == (202, {"id": running, "status": "requested"})
    assert db.execute("select cancel_requested from run where id = %s", [running]).fetchone() == (True,)
    cancelled = await api.post(f"/v1/runs/{idle}/cancel")
    assert (cancelled.status_code, cancelled.json()) == (200, {"id": idle, "status": "cancelled"})
    assert (await api.get(f"/v1/runs/{idle}")).json()["state"] == "cancelled"
    assert (await api.post(f"/v1/runs/{idle}/cancel")).json() == {"id": idle, "status": "finished"}


async def test_only_failed_and_cancelled_runs_are_requeued(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    assert as_problem(await api.post(f"/v1/runs/{run_id}/requeue"), 409, "wrong-state")["code"] == "HW004"
    finish(db, *claim(db), "failed", '{"type": "Boom"}')
    assert (await api.post(f"/v1/runs/{run_id}/requeue")).json() == {"id": run_id, "status": "requeued"}
    assert (await api.get(f"/v1/runs/{run_id}")).json()["state"] == "queued"
    finish(db, *claim(db), "succeeded", "1")
    as_problem(await api.post(f"/v1/runs/{run_id}/requeue"), 409, "wrong-state")


async def test_steps_are_listed_in_the_order_in_which_they_finished(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    claimed, attempt = claim(db)
    for step in ("extract", "classify", "answer"):
        db.execute(
            "select flush(array[%s]::bigint[], array[%s]::integer[], array['checkpoint'], array[%s], array[%s],"
            " array[null], array[null]::timestamptz[])",
            [claimed, attempt, step, f'{{"of": "{step}"}}'],
        )
    first = (await api.get(f"/v1/runs/{run_id}/steps", params={"limit": 2})).json()
    rest = (await api.get(f"/v1/runs/{run_id}/steps", params={"limit": 2, "cursor": first["next"]})).json()
    steps = first["items"] + rest["items"]
    assert [(step["step"], step["attempt"], step["repeats"]) for step in steps] == [
        ("extract", 1, 0),
        ("classify", 1, 0),
        ("answer", 1, 0),
    ]
    assert steps[0]["output"] == {"of": "extract"}
    assert rest["next"] is None
    (bare, *_) = (await api.get(f"/v1/runs/{run_id}/steps", params={"outputs": False})).json()["items"]
    assert {**bare, "output": steps[0]["output"]} == steps[0]
    assert "output" not in bare
    assert bare["bytes"] == len('{"of": "extract"}')
    (named,) = (await api.get(f"/v1/runs/{run_id}/steps", params={"step": "classify"})).json()["items"]
    assert named == steps[1]
    assert (await api.get(f"/v1/runs/{run_id}/steps", params={"step": "none"})).json()["items"] == []


async def test_an_administrator_reads_any_run_and_creates_for_a_tenant_named(
    client: httpx.AsyncClient, keys: Keys, task: str
) -> None:
    client.headers["Authorization"] = f"Bearer {keys.admin}"
    body = {"task": task, "args": {"id": 7}}
    as_problem(await client.post("/v1/runs", json=body), 400, "tenant-missing")
    created = await client.post("/v1/runs", json=body, headers={"Howdah-Tenant": "acme"})
    assert created.json()["tenant"] == "acme"
    assert (await client.get(created.headers["location"])).status_code == 200
    as_problem(await client.get(created.headers["location"], headers={"Howdah-Tenant": "other"}), 404, "unknown-run")
    as_problem(await client.post("/v1/runs", json=body, headers={"Howdah-Tenant": "nobody"}), 404, "unknown-tenant")


@pytest.mark.parametrize("count", [300])
async def test_concurrent_creates_share_transactions(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection, count: int
) -> None:
    responses = await asyncio.gather(
        *(api.post("/v1/runs", json={"task": task, "args": {"id": n}}) for n in range(count))
    )
    assert {response.status_code for response in responses} == {201}
    row = db.execute("select count(*), count(distinct xmin::text) from run").fetchone()
    assert row is not None
    assert row[0] == count
    assert row[1] < count
