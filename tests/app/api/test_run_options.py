"""What a new run may say for itself: its order in a session, deadline, retries, its key's window; full queues."""

from __future__ import annotations

from typing import Any

import httpx
import psycopg
import pytest

from tests.app.api.conftest import as_problem

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY: dict[str, Any] = {"task": "invoice.send", "args": {"id": 7}}


async def test_an_ordered_run_is_answered_as_it_is(api: httpx.AsyncClient, task: str) -> None:
    body = {**BODY, "session": "s", "order": "skip"}
    for number, state in ((1, "queued"), (2, "blocked")):
        response = await api.post("/v1/runs", json=body)
        run = response.json()
        assert (response.status_code, run["state"], run["order"], run["order_no"]) == (201, state, "skip", number)
        assert (await api.get(response.headers["location"])).json() == run


async def test_ordered_runs_of_a_batch_are_answered_as_they_are(api: httpx.AsyncClient, task: str) -> None:
    runs = [{**BODY, "session": "s", "order": "block"}] * 2 + [BODY]
    items = (await api.post("/v1/runs/batch", json={"runs": runs})).json()["items"]
    assert [item["status"] for item in items] == [201] * 3
    assert [(item["run"]["state"], item["run"]["order_no"]) for item in items] == [
        ("queued", 1),
        ("blocked", 2),
        ("queued", None),
    ]


async def test_what_a_run_brings_with_it_is_on_disk(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    body = {
        **BODY,
        "deadline": "2100-01-01T00:00:00Z",
        "retry": {"max_attempts": 3, "wait": 2, "exponential_wait": 2, "max_wait": 60, "jitter": 0.5},
        "idempotency_window_s": 3600,
    }
    response = await api.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"})
    run = response.json()
    assert (response.status_code, run["deadline"]) == (201, "2100-01-01T00:00:00Z")
    assert (await api.get(response.headers["location"])).json() == run
    assert db.execute("select deadline = '2100-01-01 00:00:00+00', retry from run").fetchall() == [
        (True, {"max_attempts": 3, "wait": 2, "exponential_wait": 2, "max_wait": 60.0, "jitter": 0.5})
    ]
    kept = "select extract(epoch from expires_at - created_at)::integer from idempotency_key"
    assert db.execute(kept).fetchall() == [(3600,)]


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/runs/", "/v1/runs/batch"])
async def test_a_run_keeps_the_trace_of_its_request(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection, path: str
) -> None:
    body = {"runs": [BODY]} if path.endswith("batch") else BODY
    for header in ({"traceparent": TRACE}, {"traceparent": "nonsense"}, {"traceparent": TRACE.replace("b7", "B7")}, {}):
        assert (await api.post(path, json=body, headers=header)).status_code in (200, 201)
    assert db.execute("select traceparent from run order by id").fetchall() == [(TRACE,), (None,), (None,), (None,)]


async def test_a_version_is_what_was_named_and_the_plain_name_the_newest(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    db.execute(
        "select register_tasks('{invoice.send@2}', '{workflow}', '{mail}',"
        " array['{\"required\": [\"number\"]}'], array[''])"
    )
    assert (await api.post("/v1/runs", json={**BODY, "task": "invoice.send@2"})).status_code == 422, "it wants a number"
    new = {"args": {"number": 7}}
    asked = [
        {**new, "task": "invoice.send"}, {**new, "task": "invoice.send@2"}, {**BODY, "task": "invoice.send@1"}
    ]  # fmt: skip
    answers = []
    for run in asked:
        response = await api.post("/v1/runs", json=run)
        assert response.status_code == 201
        assert (await api.get(response.headers["location"])).json() == response.json()
        answers.append(response.json()["task"])
    batch = (await api.post("/v1/runs/batch", json={"runs": asked})).json()["items"]
    sent = [name for (name,) in db.execute("select task from run order by id").fetchall()]
    assert sent == 2 * ["invoice.send@2", "invoice.send@2", "invoice.send"]
    assert answers + [item["run"]["task"] for item in batch] == sent
    only = await api.post("/v1/runs", json={**BODY, "task": "invoice.void@1"})
    assert only.status_code == 201, only.text


async def test_what_makes_no_sense_is_refused_with_its_place(api: httpx.AsyncClient, task: str) -> None:
    for fields, pointer in (
        ({"order": "skip"}, "/order"),
        ({"order": "first", "session": "s"}, "/order"),
        ({"idempotency_window_s": 60}, "/idempotency_window_s"),
        ({"idempotency_window_s": 0}, "/idempotency_window_s"),
        ({"deadline": "2100-01-01T00:00:00"}, "/deadline"),
        ({"retry": {"wait": -1}}, "/retry/wait"),
        ({"retry": {"jitter": 2}}, "/retry/jitter"),
        ({"retry": {"times": 2}}, "/retry"),
        ({"retry": 3}, "/retry"),
    ):
        problem = as_problem(await api.post("/v1/runs", json={**BODY, **fields}), 422, "invalid-request")
        assert problem["errors"][0]["pointer"] == pointer
        (item,) = (await api.post("/v1/runs/batch", json={"runs": [{**BODY, **fields}]})).json()["items"]
        assert (item["status"], item["problem"]["errors"][0]["pointer"]) == (422, f"/runs/0{pointer}")


async def test_a_full_queue_asks_to_come_back_later(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    db.execute("""select set_queue_limits('mail', '{"max_queued": 1}')""")
    assert (await api.post("/v1/runs", json=BODY)).status_code == 201
    refused = await api.post("/v1/runs", json=BODY)
    problem = as_problem(refused, 429, "queue-full")
    assert (problem["code"], refused.headers["retry-after"]) == ("HW018", "1")
    items = (await api.post("/v1/runs/batch", json={"runs": [BODY, {**BODY, "queue": "slow"}]})).json()["items"]
    assert [item["status"] for item in items] == [429, 201]
    assert items[0]["problem"]["type"] == "urn:howdah:problem:queue-full"
