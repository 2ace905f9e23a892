"""Workers by REST: what the engine promises its own worker it promises them, and a careless one hurts only itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from howdah.app.settings import Settings
from tests.app.api.conftest import MAX_BODY, Keys, Running, as_problem

TASK = {"name": "scan", "queue": "scans", "args_schema": {"type": "object"}}
NEW = {"name": "w", "queues": ["scans"], "tasks": [TASK]}


@pytest.fixture
def settings() -> Settings:
    return Settings(max_body_bytes=MAX_BODY, shutdown_seconds=2, rescue_seconds=0.6, log_level="warning")


@pytest.fixture
async def admin(running: Running, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    """An administrator, who acts for acme where a request is for a tenant."""
    headers = {"Authorization": f"Bearer {keys.admin}", "Howdah-Tenant": "acme"}
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=30) as opened:
        yield opened


async def registered(admin: httpx.AsyncClient, **fields: Any) -> str:
    """Path of a new worker."""
    response = await admin.post("/v1/workers", json={**NEW, **fields})
    assert response.status_code == 201, response.text
    return f"/v1/workers/{response.json()['id']}"


async def enqueue(admin: httpx.AsyncClient, **fields: Any) -> str:
    response = await admin.post("/v1/runs", json={"task": "scan", "args": {"page": 1}, **fields})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def claim(admin: httpx.AsyncClient, worker: str, **fields: Any) -> list[dict[str, Any]]:
    response = await admin.post(f"{worker}/claim", json=fields)
    assert response.status_code == 200, response.text
    return list(response.json()["runs"])


def item(run: dict[str, Any], kind: str, name: str, body: Any = None, **fields: Any) -> dict[str, Any]:
    return {"run": run["id"], "attempt": run["attempt"], "kind": kind, "name": name, "body": body, **fields}


async def write(admin: httpx.AsyncClient, worker: str, *items: dict[str, Any]) -> list[dict[str, Any]]:
    response = await admin.post(f"{worker}/items", json={"items": items})
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["items"]
    assert [result["index"] for result in results] == list(range(len(items)))
    return results


def statuses(results: list[dict[str, Any]]) -> list[str]:
    return [result["status"] for result in results]


async def state(admin: httpx.AsyncClient, run_id: str) -> str:
    return str((await admin.get(f"/v1/runs/{run_id}")).json()["state"])


async def test_a_run_is_claimed_kept_and_finished(admin: httpx.AsyncClient) -> None:
    answer = (await admin.post("/v1/workers", json=NEW)).json()
    assert (answer["heartbeat_s"], answer["rescue_s"]) == (3.0, 0.6)
    worker = f"/v1/workers/{answer['id']}"
    run_id = await enqueue(admin, session="case-7", args={"page": 12345678901234567890})
    (run,) = await claim(admin, worker)
    assert run | {"args": 0} == {
        "id": run_id, "tenant": "acme", "queue": "scans", "task": "scan", "args": 0, "attempt": 1, "failures": 0,
        "session": "case-7", "retry": None, "deadline": None, "steps": {}, "signals": [],
    }  # fmt: skip
    assert run["args"] == {"page": 12345678901234567890}
    results = await write(
        admin,
        worker,
        item(run, "checkpoint", "read", {"pages": 3}, key="", at="2030-01-01T00:00:00Z"),
        item(run, "event", "page.read", {"page": 1}, key="p1"),
        item(run, "event", "page.read", {"page": 1}, key="p1"),
        item(run, "outcome", "succeeded", [1, 2]),
    )
    assert results == [{"index": index, "status": "ok"} for index in range(4)]
    ended = (await admin.get(f"/v1/runs/{run_id}")).json()
    assert (ended["state"], ended["output"], ended["attempt"]) == ("succeeded", [1, 2], 1)
    (step,) = (await admin.get(f"/v1/runs/{run_id}/steps")).json()["items"]
    assert (step["step"], step["output"], step["started_at"]) == ("read", {"pages": 3}, "2030-01-01T00:00:00Z")
    events = (await admin.get("/v1/sessions/case-7/events")).json()["events"]
    assert [event["type"] for event in events] == ["page.read", "howdah.run.succeeded"]
    assert (await admin.delete(worker)).json() == {"released": 0}


async def test_a_worker_gets_only_runs_of_its_tasks(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    await registered(admin, tasks=[TASK | {"name": "other"}])
    await enqueue(admin, task="other")
    assert await claim(admin, worker) == []
    run_id = await enqueue(admin)
    assert [run["id"] for run in await claim(admin, worker, limit=10)] == [run_id]


async def test_what_a_worker_leaves_is_gone_on_with_from_its_last_step(admin: httpx.AsyncClient) -> None:
    first = await registered(admin)
    run_id = await enqueue(admin)
    (run,) = await claim(admin, first)
    await write(admin, first, item(run, "checkpoint", "read", 7), item(run, "checkpoint", "nothing"))
    assert (await admin.delete(first)).json() == {"released": 1}
    second = await registered(admin)
    (again,) = await claim(admin, second)
    assert (again["attempt"], again["failures"], again["steps"]) == (2, 0, {"read": 7, "nothing": None})
    refused, repeated = await write(
        admin, second, item(run, "outcome", "succeeded"), item(again, "checkpoint", "read", 8)
    )
    assert (refused["status"], refused["problem"]["code"]) == ("stale", "HW001")
    assert (repeated["status"], repeated["problem"]["code"]) == ("repeated", "HW013")
    assert await state(admin, run_id) == "running"


async def test_a_silent_workers_runs_come_back_and_it_is_told(admin: httpx.AsyncClient) -> None:
    silent, living = await registered(admin), await registered(admin)
    run_id = await enqueue(admin)
    assert len(await claim(admin, silent)) == 1
    async with asyncio.timeout(20):
        while not (found := await claim(admin, living)):
            heard = (await admin.post(f"{living}/heartbeat")).json()
            assert heard == {"alive": True, "cancelled": [], "draining": False, "suspects": False}
            await asyncio.sleep(0.1)
    assert [(run["id"], run["attempt"]) for run in found] == [(run_id, 2)]
    assert not (await admin.post(f"{silent}/heartbeat")).json()["alive"]
    problem = as_problem(await admin.post(f"{silent}/claim", json={}), 409, "stale-attempt")
    assert "register again" in problem["detail"]


async def test_who_was_silent_itself_judges_nobody(admin: httpx.AsyncClient, db: psycopg.Connection) -> None:
    one, _ = await registered(admin), await registered(admin)
    # As after an hour without the database.
    db.execute("update worker set heartbeat_at = now() - interval '1 hour'")
    await admin.post(f"{one}/heartbeat")
    assert db.execute("select count(*) from worker").fetchall() == [(2,)]
    await admin.post(f"{one}/heartbeat")
    assert db.execute("select count(*) from worker").fetchall() == [(1,)]


async def test_a_cancelled_run_is_told_and_ends_cancelled(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    run_id = await enqueue(admin)
    (run,) = await claim(admin, worker)
    assert (await admin.post(f"/v1/runs/{run_id}/cancel")).status_code == 202
    assert (await admin.post(f"{worker}/heartbeat")).json()["cancelled"] == [run_id]
    assert statuses(await write(admin, worker, item(run, "outcome", "wait", [{"signal": "go"}]))) == ["cancelled"]
    assert statuses(await write(admin, worker, item(run, "outcome", "cancelled"))) == ["ok"]
    assert await state(admin, run_id) == "cancelled"


async def test_a_wait_rests_until_its_signal_and_one_that_has_come_is_answered_with_it(
    admin: httpx.AsyncClient, db: psycopg.Connection
) -> None:
    worker = await registered(admin)
    run_id = await enqueue(admin)
    (run,) = await claim(admin, worker)
    wait = [{"signal": "approve", "choices": ["yes", "no"]}]
    assert statuses(await write(admin, worker, item(run, "outcome", "wait", wait))) == ["ok"]
    assert await state(admin, run_id) == "waiting"
    send = "select status from send_signals(null, array[%s::bigint], '{approve}', array[%s])"
    assert db.execute(send, [run_id, '"perhaps"']).fetchall() == [("not_a_choice",)]
    assert db.execute(send, [run_id, '"yes"']).fetchall() == [("sent",)]
    (again,) = await claim(admin, worker, wait=10)
    approve = {"name": "approve", "no": 1, "payload": "yes"}
    assert (again["attempt"], again["signals"]) == (2, [approve])
    (ready,) = await write(admin, worker, item(again, "outcome", "wait", [{"signal": "approve"}]))
    assert ready == {"index": 0, "status": "ready", "signals": [approve]}
    (rests,) = await write(admin, worker, item(again, "outcome", "wait", [{"signal": "approve", "after": 1}]))
    assert rests["status"] == "ok"


async def test_a_wait_for_events_and_a_sleep_end_by_themselves(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    await enqueue(admin, session="case-7")
    (run,) = await claim(admin, worker)
    listen = [{"events": 0, "types": ["message"]}]
    assert statuses(await write(admin, worker, item(run, "outcome", "wait", listen))) == ["ok"]
    await admin.post("/v1/sessions/case-7/events", json={"type": "message"})
    (run,) = await claim(admin, worker, wait=10)
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
    assert statuses(await write(admin, worker, item(run, "outcome", "wait", [{"sleep": "s"}], at=soon))) == ["ok"]
    (run,) = await claim(admin, worker, wait=10)
    assert run["attempt"] == 3


async def test_a_failure_is_tried_again_when_it_says_and_counted(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    run_id = await enqueue(admin)
    (run,) = await claim(admin, worker)
    oops = {"type": "Oops", "message": "no paper"}
    assert statuses(await write(admin, worker, item(run, "outcome", "retry", oops))) == ["ok"]
    (run,) = await claim(admin, worker, wait=10)
    assert (run["attempt"], run["failures"]) == (2, 1)
    assert statuses(await write(admin, worker, item(run, "outcome", "release"))) == ["ok"]
    (run,) = await claim(admin, worker, wait=10)
    assert (run["attempt"], run["failures"]) == (3, 1)
    assert statuses(await write(admin, worker, item(run, "outcome", "failed", oops))) == ["ok"]
    assert (await admin.get(f"/v1/runs/{run_id}")).json()["error"] == oops


async def test_a_claim_that_waits_hears_of_a_new_run(admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("howdah.app.api.workers.POLL_FROM", 60.0)
    worker = await registered(admin)
    waiting = asyncio.create_task(claim(admin, worker, wait=30))
    await asyncio.sleep(0.3)
    run_id = await enqueue(admin)
    async with asyncio.timeout(5):
        assert [run["id"] for run in await waiting] == [run_id]
    began = time.monotonic()
    assert await claim(admin, worker, wait=0.2) == []
    assert 0.2 <= time.monotonic() - began < 5


async def test_an_events_key_is_known_by_its_run(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    for _ in range(2):
        await enqueue(admin, session="case-7")
    for run in await claim(admin, worker, limit=2):
        for _ in range(2):
            assert statuses(await write(admin, worker, item(run, "event", "begun", key="begun"))) == ["ok"]
    events = (await admin.get("/v1/sessions/case-7/events")).json()["events"]
    assert [event["type"] for event in events] == ["begun", "begun"]


async def test_what_a_worker_writes_is_told_after_the_commit(
    admin: httpx.AsyncClient, db: psycopg.Connection, conninfo: str
) -> None:
    worker = await registered(admin)
    run_id, limited_id = await enqueue(admin, session="case-7"), await enqueue(admin)
    by_id = {run["id"]: run for run in await claim(admin, worker, limit=2)}
    run, limited = by_id[run_id], by_id[limited_id]
    db.execute("select set_queue_limits('scans', '{\"max_running\": 2}')")
    with psycopg.connect(conninfo, autocommit=True) as listening:
        listening.execute('listen "howdah.runs"')
        listening.execute('listen "howdah.events"')
        for said, heard in (
            (item(run, "checkpoint", "read"), []),
            (item(run, "event", "noted"), [("howdah.events", "acme/case-7")]),
            (item(run, "outcome", "release"), [("howdah.runs", "scans")]),
            (item(limited, "outcome", "succeeded"), [("howdah.runs", "scans")]),
            (item(run, "event", "stale"), []),
        ):
            await write(admin, worker, said)
            # The notifier waits for nothing, but sends on a connection of its own.
            await asyncio.sleep(0.2)
            told = [(hint.channel, hint.payload) for hint in listening.notifies(timeout=0.1)]
            assert told == heard, said
        (again,) = await claim(admin, worker)
        await write(admin, worker, item(again, "outcome", "failed", {"type": "Oops", "message": ""}))
        told = [(hint.channel, hint.payload) for hint in listening.notifies(timeout=1, stop_after=2)]
        assert sorted(told) == [("howdah.events", "acme/case-7"), ("howdah.runs", "scans")]


async def test_who_hangs_up_while_it_waits_takes_nothing_along(
    admin: httpx.AsyncClient, db: psycopg.Connection
) -> None:
    worker = await registered(admin)
    with pytest.raises(httpx.ReadTimeout):
        await admin.post(f"{worker}/claim", json={"wait": 30}, timeout=0.3)
    await asyncio.sleep(0.3)
    await enqueue(admin)
    await asyncio.sleep(0.5)
    assert db.execute("select state, attempt from run").fetchall() == [("queued", 0)]


async def test_a_process_that_stops_lets_waiting_claims_go(admin: httpx.AsyncClient, running: Running) -> None:
    worker = await registered(admin)
    waiting = asyncio.create_task(claim(admin, worker, wait=60))
    await asyncio.sleep(0.3)
    resources = running.server.app.state.resources
    began = time.monotonic()
    running.server._loop.call_soon_threadsafe(resources.begin_shutdown)  # type: ignore[union-attr]
    assert await waiting == []
    assert time.monotonic() - began < 5


async def test_more_claims_that_wait_than_allowed_are_told_to_come_back(
    admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("howdah.app.claim_waiter.MAX_WAITERS", 0)
    worker = await registered(admin)
    response = await admin.post(f"{worker}/claim", json={"wait": 1})
    as_problem(response, 503, "too-many-waiters")
    assert response.headers["retry-after"] == "1"
    assert await claim(admin, worker) == []


async def test_a_drained_worker_gets_nothing_more(admin: httpx.AsyncClient, db: psycopg.Connection) -> None:
    worker = await registered(admin)
    await enqueue(admin)
    db.execute("select ops.drain_worker(%s)", [worker.rpartition("/")[2]])
    assert (await admin.post(f"{worker}/heartbeat")).json()["draining"]
    answer = (await admin.post(f"{worker}/claim", json={"wait": 30})).json()
    assert answer == {"runs": [], "draining": True}


async def test_a_run_whose_workers_died_is_claimed_apart(admin: httpx.AsyncClient, db: psycopg.Connection) -> None:
    worker = await registered(admin)
    run_id = await enqueue(admin)
    db.execute("update run set suspect = true, deaths = 2, fresh = false")
    assert await claim(admin, worker) == []
    assert (await admin.post(f"{worker}/heartbeat")).json()["suspects"]
    assert [run["id"] for run in await claim(admin, worker, suspects=True)] == [run_id]


async def test_a_bad_item_fails_alone_with_what_follows_of_its_run(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    bad_id, good_id = await enqueue(admin), await enqueue(admin)
    bad, good = sorted(await claim(admin, worker, limit=2), key=lambda run: [bad_id, good_id].index(run["id"]))
    results = await write(
        admin,
        worker,
        item(bad, "checkpoint", "first", 1),
        item(bad, "checkpoint", "second", "a\0b"),
        item(bad, "outcome", "succeeded"),
        item(good, "outcome", "succeeded"),
    )
    assert statuses(results) == ["ok", "refused", "refused", "ok"]
    assert results[1]["problem"]["code"] == "HW016"
    assert results[2]["problem"]["errors"][0]["pointer"] == "/items/2"
    assert (await state(admin, bad_id), await state(admin, good_id)) == ("running", "succeeded")


async def test_an_item_that_makes_no_sense_is_pointed_at(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    await enqueue(admin)
    (run,) = await claim(admin, worker)
    for fields, pointer in (
        ({"run": "x"}, "/run"),
        ({"run": "9" * 19}, "/run"),
        ({"attempt": 0}, "/attempt"),
        ({"kind": "outcomes"}, "/kind"),
        ({"name": "suceeded"}, "/name"),
        ({"name": "succeeded", "key": "k"}, "/key"),
        ({"name": "failed"}, "/body"),
        ({"name": "retry", "body": {"type": "Oops"}}, "/body"),
        ({"name": "wait", "body": []}, "/body"),
        ({"name": "wait", "body": [{"signal": "a", "events": 1}]}, "/body/0"),
        ({"name": "wait", "body": [{"signal": "a", "after": "1"}]}, "/body/0/after"),
        ({"name": "wait", "body": [{"sleep": "s"}]}, "/at"),
        ({"name": "wait", "body": [{"sleep": "s"}], "at": "2030-01-01T00:00:00"}, "/at"),
        ({"surplus": 1}, ""),
    ):
        (result,) = await write(admin, worker, item(run, "outcome", "succeeded") | fields)
        problem = result["problem"]
        found = (result["status"], problem["status"], problem["errors"][0]["pointer"])
        assert found == ("refused", 422, f"/items/0{pointer}"), fields
        assert await state(admin, run["id"]) == "running"


async def test_a_registration_that_makes_no_sense_is_refused(admin: httpx.AsyncClient) -> None:
    for fields, pointer in (
        ({"name": ""}, "/name"),
        ({"queues": []}, "/queues"),
        ({"queues": ["no spaces"]}, "/queues/0"),
        ({"tasks": []}, "/tasks"),
        ({"tasks": [TASK, TASK]}, "/tasks"),
        ({"tasks": [TASK | {"kind": "flow"}]}, "/tasks/0/kind"),
        ({"tasks": [TASK | {"args_schema": {"type": "objekt"}}]}, "/tasks/0/args_schema"),
        ({"tasks": [TASK | {"args_schema": []}]}, "/tasks/0/args_schema"),
    ):
        problem = as_problem(await admin.post("/v1/workers", json=NEW | fields), 422, "invalid-request")
        assert problem["errors"][0]["pointer"] == pointer
    for limit in (0, 101):
        worker = await registered(admin)
        as_problem(await admin.post(f"{worker}/claim", json={"limit": limit}), 422, "invalid-request")
    as_problem(await admin.post("/v1/workers/x/heartbeat"), 404, "unknown-worker")


async def test_too_many_items_are_refused_and_none_is_written(admin: httpx.AsyncClient) -> None:
    worker = await registered(admin)
    body = json.dumps({"items": [0] * 1001})
    as_problem(await admin.post(f"{worker}/items", content=body), 413, "too-many-items")
    assert await write(admin, worker) == []


async def test_workers_are_for_administrators(
    admin: httpx.AsyncClient, api: httpx.AsyncClient, db: psycopg.Connection
) -> None:
    worker = await registered(admin)
    as_problem(await api.post("/v1/workers", json=NEW), 403, "admin-only")
    for path in ("heartbeat", "claim", "items"):
        as_problem(await api.post(f"{worker}/{path}", json={}), 403, "admin-only")
    as_problem(await api.delete(worker), 403, "admin-only")
    assert db.execute("select count(*) from worker").fetchall() == [(1,)]


async def test_an_event_for_a_full_session_and_what_follows_it_is_to_be_sent_again(admin: httpx.AsyncClient) -> None:
    await admin.post("/v1/sessions", json={"id": "case-7", "event_window": 1})
    await admin.put("/v1/sessions/case-7/consumers/slow", json={"required": True})
    worker = await registered(admin)
    run_id = await enqueue(admin, session="case-7")
    (run,) = await claim(admin, worker)
    last = [
        item(run, "event", "second", key="2"),
        item(run, "checkpoint", "after", 1),
        item(run, "outcome", "succeeded"),
    ]
    results = await write(admin, worker, item(run, "event", "first", key="1"), *last)
    assert statuses(results) == ["ok", "full", "full", "full"]
    assert results[1]["problem"]["code"] == "HW025"
    assert await state(admin, run_id) == "running"
    await admin.post("/v1/sessions/case-7/consumers/slow/ack", json={"sequence": 1})
    assert statuses(await write(admin, worker, *last)) == ["ok"] * 3
    assert await state(admin, run_id) == "succeeded"
    events = (await admin.get("/v1/sessions/case-7/events")).json()["events"]
    assert [event["type"] for event in events] == ["first", "second", "howdah.run.succeeded"]
