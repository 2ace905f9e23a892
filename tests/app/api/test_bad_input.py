"""Bad input: each kind gets a problem document that names the fault, and nothing of it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

from tests.app.api.conftest import MAX_BODY, Keys, as_problem

Stored = Callable[[], int]


async def test_an_unknown_task_is_told_with_those_that_come_close(
    api: httpx.AsyncClient, task: str, stored: Stored
) -> None:
    response = await api.post("/v1/runs", json={"task": "invoice.sent"})
    problem = as_problem(response, 404, "unknown-task")
    assert problem["code"] == "HW014"
    assert "invoice.send" in problem["detail"]
    assert problem["instance"] == "/v1/runs"
    assert stored() == 0


async def test_arguments_that_break_the_tasks_schema_are_pointed_at(
    api: httpx.AsyncClient, task: str, stored: Stored
) -> None:
    for args, pointers in (
        ({}, ["/args"]),
        ({"id": "7"}, ["/args/id"]),
        ({"id": 7, "to": ["a", 1, None]}, ["/args/to/1", "/args/to/2"]),
        ({"id": 7, "surplus": 1}, ["/args"]),
        ([], ["/args"]),
        ("text", ["/args"]),
    ):
        response = await api.post("/v1/runs", json={"task": task, "args": args})
        problem = as_problem(response, 422, "invalid-arguments" if isinstance(args, dict) else "invalid-request")
        assert [error["pointer"] for error in problem["errors"]] == pointers
        assert stored() == 0


async def test_a_field_that_does_not_fit_is_pointed_at(api: httpx.AsyncClient, task: str, stored: Stored) -> None:
    for body, pointer in (
        ({}, ""),
        ({"task": ""}, "/task"),
        ({"task": "invoice.send", "priority": "high"}, "/priority"),
        ({"task": "invoice.send", "priority": 1 << 40}, "/priority"),
        ({"task": "invoice.send", "queue": "no spaces"}, "/queue"),
        ({"task": "invoice.send", "queue": "newline\n"}, "/queue"),
        ({"task": "invoice.send", "session": "run:7"}, "/session"),
        ({"task": "invoice.send", "run_at": "2026-01-01T00:00:00"}, "/run_at"),
        ({"task": "invoice.send", "unique_key": "x" * 256}, "/unique_key"),
        ({"task": "invoice.send", "unknown": 1}, ""),
    ):
        problem = as_problem(await api.post("/v1/runs", json=body), 422, "invalid-request")
        assert problem["errors"][0]["pointer"] == pointer if pointer else True
        assert stored() == 0


async def test_a_body_over_the_limit_is_refused(api: httpx.AsyncClient, task: str, stored: Stored) -> None:
    for path in ("/v1/runs", "/v1/runs/batch"):
        body = b'{"task": "invoice.send", "args": {"id": 7, "note": "' + b"x" * MAX_BODY + b'"}}'
        as_problem(await api.post(path, content=body), 413, "too-large")
        assert stored() == 0


async def test_a_body_over_the_limit_is_refused_also_when_its_length_is_not_announced(
    api: httpx.AsyncClient, task: str, stored: Stored
) -> None:
    async def parts() -> Any:
        yield b'{"task": "invoice.send", "args": {"id": 7, "note": "'
        for _ in range(20):
            yield b"x" * (MAX_BODY // 10)

    as_problem(await api.post("/v1/runs", content=parts()), 413, "too-large")
    assert stored() == 0


async def test_broken_json_is_refused(api: httpx.AsyncClient, task: str, stored: Stored) -> None:
    for path in ("/v1/runs", "/v1/runs/batch"):
        for body in (
            b"{",
            b'{"task": "invoice.send"',
            b'{"task": "invoice.send",}',
            b"task=invoice.send",
            b'{"runs": [{"task": "invoice.send"} {"task": "invoice.send"}]}',
            b'{"runs": [{"task": "invoice.send"},]}',
            b'{"task": "\xff"}',
            b"\x00",
            b'{"runs": ' + b"[" * 20_000,
            b'{"task": "invoice.send", "args": {"id": 7, "note": ' + b"[" * 20_000 + b"]" * 20_000 + b"}}",
        ):
            response = await api.post(path, content=body, headers={"Content-Type": "application/json"})
            slug = "invalid-json" if response.status_code == 400 else "invalid-request"
            as_problem(response, response.status_code, slug)
            assert response.status_code in (400, 422)
            assert stored() == 0


async def test_no_body_at_all_is_refused(api: httpx.AsyncClient, task: str) -> None:
    problem = as_problem(await api.post("/v1/runs"), 422, "invalid-request")
    assert "no body" in problem["detail"]


async def test_what_postgres_cannot_hold_is_refused(api: httpx.AsyncClient, task: str, stored: Stored) -> None:
    for value in ('"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udc00\\ud800"', "NaN", "Infinity", "-Infinity"):
        body = f'{{"task": "invoice.send", "args": {{"id": 7, "note": {value}}}}}'
        problem = as_problem(await api.post("/v1/runs", content=body), 422, "bad-value")
        assert problem["code"] == "HW016"
        assert stored() == 0


async def test_nul_is_refused_wherever_it_stands(api: httpx.AsyncClient, task: str, stored: Stored) -> None:
    for field in ("task", "unique_key"):
        body = {"task": task, "args": {"id": 7}, field: "a\0b"}
        assert as_problem(await api.post("/v1/runs", json=body), 422, "bad-value")["code"] == "HW016"
        assert stored() == 0


@pytest.mark.parametrize("value", ['"\\u0000"', '"\\ud800"', "NaN", "[1, {}, Infinity]"])
async def test_in_a_batch_the_item_that_postgres_cannot_hold_fails_alone(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection, value: str
) -> None:
    good = '{"task": "invoice.send", "args": {"id": 12345678901234567890123, "note": 1.10}}'
    bad = f'{{"task": "invoice.send", "args": {{"id": 7, "note": {value}}}}}'
    response = await api.post("/v1/runs/batch", content=f'{{"runs": [{good}, {bad}, {good}]}}')
    assert response.status_code == 200
    items = response.json()["items"]
    assert [item["status"] for item in items] == [201, 422, 201]
    assert items[1]["problem"]["code"] == "HW016"
    # What came is what is stored, to the last digit.
    stored = db.execute("select args::text from run order by id").fetchall()
    assert stored == [('{"id": 12345678901234567890123, "note": 1.10}',)] * 2


async def test_an_escaped_backslash_before_u0000_is_only_text(api: httpx.AsyncClient, task: str) -> None:
    body = '{"task": "invoice.send", "args": {"id": 7, "note": "\\\\u0000 and \\ud83d\\ude00"}}'
    response = await api.post("/v1/runs", content=body)
    assert response.status_code == 201
    assert response.json()["args"]["note"] == "\\u0000 and 😀"


async def test_a_bad_cursor_is_refused(api: httpx.AsyncClient, keys: Keys) -> None:
    for where in ("/v1/runs", "/v1/tenants"):
        for cursor in ("x", "!!!", "AAAA", "MTIzNDU2Nzg5MDEyMw", "é", "%00", "'; drop table run;--"):
            headers = {"Authorization": f"Bearer {keys.admin}"}
            problem = as_problem(await api.get(where, params={"cursor": cursor}, headers=headers), 400, "bad-cursor")
            assert problem["errors"][0]["parameter"] == "cursor"


async def test_a_cursor_of_another_list_is_refused(api: httpx.AsyncClient, task: str) -> None:
    await api.post("/v1/runs/batch", json={"runs": [{"task": task, "args": {"id": n}} for n in range(3)]})
    cursor = (await api.get("/v1/runs", params={"limit": 1})).json()["next"]
    assert (await api.get("/v1/runs", params={"limit": 1, "cursor": cursor})).status_code == 200
    as_problem(await api.get("/v1/runs", params={"cursor": cursor, "state": "queued"}), 400, "bad-cursor")


async def test_a_parameter_out_of_its_range_is_named(api: httpx.AsyncClient) -> None:
    for query in ("limit=0", "limit=201", "limit=x", "state=done", "cursor=" + "a" * 2000, "limit=" + "9" * 30):
        problem = as_problem(await api.get(f"/v1/runs?{query}"), 400, "invalid-request")
        assert problem["errors"][0]["parameter"] == query.split("=", maxsplit=1)[0]


async def test_nul_in_a_filter_is_refused(api: httpx.AsyncClient) -> None:
    for query in ("queue=%00", "task=a%00b", "session=%00"):
        as_problem(await api.get(f"/v1/runs?{query}"), 422, "bad-value")


async def test_an_id_that_no_run_has_is_unknown(api: httpx.AsyncClient) -> None:
    for run_id in ("0", "x", "-1", "1.5", "9223372036854775808", "٣", "%00", "9" * 30):
        for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/requeue"), ("GET", "/steps")):
            problem = as_problem(await api.request(method, f"/v1/runs/{run_id}{path}"), 404, "unknown-run")
            assert problem["code"] == "HW002"


async def test_another_tenants_run_is_unknown_not_forbidden(
    api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection
) -> None:
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    other = {"Authorization": f"Bearer {keys.other}"}
    for method, path in (
        ("GET", ""),
        ("GET", "?wait=30"),
        ("POST", "/cancel"),
        ("POST", "/requeue"),
        ("GET", "/steps"),
    ):
        as_problem(await api.request(method, f"/v1/runs/{run_id}{path}", headers=other), 404, "unknown-run")
    assert (await api.get("/v1/runs", headers=other)).json()["items"] == []
    assert db.execute("select state from run").fetchall() == [("queued",)]


async def test_a_malformed_idempotency_key_is_refused(api: httpx.AsyncClient, task: str, stored: Stored) -> None:
    for key in ("", "a b", "x" * 256, "naïve"):
        body = {"task": task, "args": {"id": 7}}
        headers = {"Idempotency-Key": key.encode()}
        as_problem(await api.post("/v1/runs", json=body, headers=headers), 400, "invalid-request")
        assert stored() == 0


async def test_a_batch_of_more_than_a_thousand_is_refused(api: httpx.AsyncClient, task: str, stored: Stored) -> None:
    body = json.dumps({"runs": [{"task": task, "args": {"id": 1}}] * 1001})
    assert len(body) < MAX_BODY
    as_problem(await api.post("/v1/runs/batch", content=body), 413, "too-many-items")
    assert stored() == 0


async def test_a_batch_of_another_form_is_refused(api: httpx.AsyncClient) -> None:
    for body in ("[]", "7", '{"items": []}', '{"runs": {}}', '{"runs": [], "more": 1}', "null"):
        as_problem(await api.post("/v1/runs/batch", content=body), 422, "invalid-request")
