"""Schedules over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest

from tests.app.api.conftest import Keys, as_problem

REMIND = {"task": "invoice.send", "cron": "30 9 * * mon-fri", "time_zone": "Europe/Berlin", "args": {"id": 7}}


@pytest.fixture
async def made(api: httpx.AsyncClient, task: str) -> dict[str, Any]:
    """A schedule of the tenant acme, just made."""
    response = await api.put("/v1/schedules/remind", json=REMIND)
    assert response.status_code == 201, response.text
    document: dict[str, Any] = response.json()
    return document


async def test_a_schedule_is_made_and_found_again(api: httpx.AsyncClient, made: dict[str, Any]) -> None:
    assert {**made, "created_at": None, "updated_at": None} == {
        "name": "remind",
        "tenant": "acme",
        "task": "invoice.send",
        "cron": "30 9 * * mon-fri",
        "time_zone": "Europe/Berlin",
        "missed": "last",
        "queue": None,
        "priority": 0,
        "unique_key": None,
        "session": None,
        "order": None,
        "paused": False,
        "next_at": None,
        "last_at": None,
        "last_run": None,
        "error": None,
        "created_at": None,
        "updated_at": None,
        "args": {"id": 7},
    }
    assert (await api.get("/v1/schedules/remind")).json() == made


async def test_putting_it_again_replaces_it(api: httpx.AsyncClient, made: dict[str, Any]) -> None:
    await api.post("/v1/schedules/remind/pause")
    response = await api.put("/v1/schedules/remind", json={**REMIND, "cron": "@daily", "missed": "skip", "queue": "q"})
    assert (response.status_code, response.headers["location"]) == (200, "/v1/schedules/remind")
    changed = response.json()
    assert (changed["cron"], changed["missed"], changed["queue"]) == ("@daily", "skip", "q")
    assert changed["paused"]
    assert changed["created_at"] == made["created_at"]


async def test_a_large_number_in_the_arguments_keeps_its_digits(api: httpx.AsyncClient, task: str) -> None:
    number = "12345678901234567890.123456789012345678"
    body = f'{{"task": "invoice.void", "cron": "@daily", "args": {{"n": {number}}}}}'
    put = await api.put("/v1/schedules/s", content=body, headers={"Content-Type": "application/json"})
    assert number in put.text
    assert number in (await api.get("/v1/schedules/s")).text


async def test_pause_and_resume_are_seen_and_twice_is_as_once(api: httpx.AsyncClient, made: dict[str, Any]) -> None:
    for action, paused in (("pause", True), ("pause", True), ("resume", False), ("resume", False)):
        response = await api.post(f"/v1/schedules/remind/{action}")
        assert (response.status_code, response.json()["paused"]) == (200, paused)


async def test_a_run_can_be_had_now(api: httpx.AsyncClient, made: dict[str, Any]) -> None:
    await api.post("/v1/schedules/remind/pause")
    response = await api.post("/v1/schedules/remind/run")
    assert response.status_code == 201
    run = response.json()
    assert response.headers["location"] == f"/v1/runs/{run['id']}"
    assert (run["task"], run["args"], run["queue"], run["state"]) == ("invoice.send", {"id": 7}, "mail", "queued")
    assert (await api.get(f"/v1/runs/{run['id']}")).json() == run


@pytest.mark.parametrize("order", ["skip", "block", None])
async def test_its_runs_have_its_session_and_order(api: httpx.AsyncClient, task: str, order: str | None) -> None:
    put = await api.put("/v1/schedules/s", json={**REMIND, "session": "case-7", "order": order})
    assert (put.json()["session"], put.json()["order"]) == ("case-7", order)
    assert (await api.get("/v1/schedules")).json()["items"] == [{k: v for k, v in put.json().items() if k != "args"}]
    runs = [(await api.post("/v1/schedules/s/run")).json() for _ in range(2)]
    assert [(run["session"], run["order"]) for run in runs] == [("case-7", order)] * 2
    # Ordered, the second waits for the first.
    assert [run["state"] for run in runs] == ["queued", "blocked" if order else "queued"]
    put = await api.put("/v1/schedules/s", json=REMIND)
    assert (put.json()["session"], put.json()["order"]) == (None, None)


async def test_an_order_without_a_session_is_refused(api: httpx.AsyncClient, task: str) -> None:
    problem = as_problem(await api.put("/v1/schedules/s", json={**REMIND, "order": "skip"}), 422, "bad-schedule")
    assert "order 'skip' without a session" in problem["detail"]
    as_problem(
        await api.put("/v1/schedules/s", json={**REMIND, "session": "s", "order": "stop"}), 422, "invalid-request"
    )
    as_problem(await api.put("/v1/schedules/s", json={**REMIND, "session": "a/b"}), 422, "invalid-request")


async def test_what_fired_is_shown(api: httpx.AsyncClient, made: dict[str, Any], db: psycopg.Connection) -> None:
    moment = datetime(2030, 1, 2, 8, 30, tzinfo=UTC)
    db.execute(
        "select * from fire_schedules(array['acme'], array['remind'],"
        " array(select counts_from from schedule), array[null::timestamptz], array[%s], array[%s])",
        [moment, datetime(2030, 1, 3, 8, 30, tzinfo=UTC)],
    )
    found = (await api.get("/v1/schedules/remind")).json()
    assert (found["last_at"], found["next_at"]) == ("2030-01-02T08:30:00Z", "2030-01-03T08:30:00Z")
    assert (await api.get(f"/v1/runs/{found['last_run']}")).json()["args"] == {"id": 7}


async def test_they_are_listed_by_name_in_pages(api: httpx.AsyncClient, made: dict[str, Any]) -> None:
    for name in ("b", "a", "z"):
        await api.put(f"/v1/schedules/{name}", json=REMIND)
    first = (await api.get("/v1/schedules", params={"limit": 3})).json()
    rest = (await api.get("/v1/schedules", params={"limit": 3, "cursor": first["next"]})).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["a", "b", "remind", "z"]
    assert rest["next"] is None
    as_problem(await api.get("/v1/runs", params={"cursor": first["next"]}), 400, "bad-cursor")


async def test_a_schedule_is_its_tenants_own(api: httpx.AsyncClient, keys: Keys, made: dict[str, Any]) -> None:
    others = {"Authorization": f"Bearer {keys.other}"}
    assert (await api.get("/v1/schedules", headers=others)).json()["items"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/run")):
        response = await api.request(method, f"/v1/schedules/remind{path}", headers=others)
        assert as_problem(response, 404, "unknown-schedule")["code"] == "HW019"
    assert (await api.get("/v1/schedules/remind")).json() == made


async def test_a_schedule_is_deleted_once(api: httpx.AsyncClient, made: dict[str, Any]) -> None:
    assert (await api.delete("/v1/schedules/remind")).status_code == 204
    as_problem(await api.delete("/v1/schedules/remind"), 404, "unknown-schedule")
    as_problem(await api.get("/v1/schedules/remind"), 404, "unknown-schedule")


async def test_what_cannot_be_kept_is_refused_with_what_is_wrong(api: httpx.AsyncClient, task: str) -> None:
    for change, says in (
        ({"cron": "often"}, "'often'"),
        ({"cron": "* * * *"}, "five fields"),
        ({"cron": "0 0 30 2 *"}, "no moment"),
        ({"cron": "R * * * *"}, "random"),
        ({"time_zone": "Mars/Base"}, "'Mars/Base'"),
        ({"time_zone": "../x"}, "IANA"),
    ):
        problem = as_problem(await api.put("/v1/schedules/s", json={**REMIND, **change}), 422, "bad-schedule")
        assert problem["code"] == "HW020"
        assert says in problem["detail"]
        assert (await api.get("/v1/schedules")).json()["items"] == []


async def test_its_task_and_arguments_are_checked_as_for_a_run(api: httpx.AsyncClient, task: str) -> None:
    as_problem(await api.put("/v1/schedules/s", json={**REMIND, "task": "invoice.sent"}), 404, "unknown-task")
    problem = as_problem(await api.put("/v1/schedules/s", json={**REMIND, "args": {}}), 422, "invalid-arguments")
    assert problem["errors"][0]["pointer"] == "/args"
    as_problem(await api.put("/v1/schedules/s", json={**REMIND, "missed": "all"}), 422, "invalid-request")
    as_problem(await api.put("/v1/schedules/periodic:s", json=REMIND), 400, "invalid-request")
    as_problem(await api.put("/v1/schedules/a%20b", json=REMIND), 400, "invalid-request")
