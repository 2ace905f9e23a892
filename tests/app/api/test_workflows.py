"""Runs of workflows over HTTP: what they wait for, signals to them, their children and their forks."""

from __future__ import annotations

import json
from typing import Any

import httpx
import psycopg

from tests.app.api.conftest import MAX_BODY, Keys, as_problem
from tests.app.api.test_run_changes import create
from tests.app.api.test_runs import claim, finish

APPROVAL = {"signal": "approval", "after": 0, "choices": ["approve", "reject"]}


def rest(db: psycopg.Connection, *awaits: dict[str, Any], until: str | None = None) -> int:
    """The next run waits for these; its id."""
    run_id, attempt = claim(db)
    status = db.execute(
        "select status from flush(array[%s]::bigint[], array[%s]::integer[], '{outcome}', '{wait}', array[%s],"
        " array[null], array[%s]::timestamptz[])",
        [run_id, attempt, json.dumps(awaits), until],
    ).fetchone()
    assert status == ("ok",)
    return run_id


def keep(db: psycopg.Connection, run_id: int, *steps: str) -> None:
    """Steps of a run that finished one after another, each with its name as output."""
    for number, step in enumerate(steps):
        db.execute(
            "insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at)"
            " values (%s, %s, 'acme', 1, to_jsonb(%s::text), now() - interval '2 s', now() + %s * interval '1 ms')",
            [run_id, step, step, number],
        )


def spawn(db: psycopg.Connection, parent: int, step: str, count: int) -> list[int]:
    """Children of a running run."""
    row = db.execute(
        "select child_ids from spawn_children(%s, (select attempt from run where id = %s), %s, %s,"
        " array_fill('invoice.void'::text, array[%s]), array_fill('{}'::text, array[%s]))",
        [parent, parent, f"{step}#children-0", step, count, count],
    ).fetchone()
    assert row is not None
    ids: list[int] = row[0]
    return ids


async def test_a_waiting_run_shows_what_it_waits_for(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    run_id = await create(api, session="case-7")
    assert (await api.get(f"/v1/runs/{run_id}")).json()["awaits"] == []
    rest(db, APPROVAL, {"events": 3, "types": None}, {"sleep": "night"}, until="2100-01-01T00:00:00Z")
    until = "2100-01-01T00:00:00Z"
    expected: list[dict[str, Any]] = [
        {"kind": "signal", "name": "approval", "choices": ["approve", "reject"], "until": until},
        {"kind": "events", "name": "case-7", "choices": None, "until": until},
        {"kind": "time", "name": "night", "choices": None, "until": until},
    ]
    run = (await api.get(f"/v1/runs/{run_id}")).json()
    assert (run["state"], run["awaits"]) == ("waiting", expected)
    (listed,) = (await api.get("/v1/runs?state=waiting")).json()["items"]
    assert listed["awaits"] == expected


async def test_a_signal_wakes_the_run_that_waits_for_it(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    run_id = await create(api)
    rest(db, APPROVAL)
    sent = await api.post(
        f"/v1/runs/{run_id}/signals", content=b'{"name": "approval", "payload": {"choice": "approve", "sum": 1.10}}'
    )
    assert (sent.status_code, sent.json()) == (201, {"id": run_id, "name": "approval", "status": "sent"})
    assert (await api.get(f"/v1/runs/{run_id}")).json()["state"] == "queued"
    response = await api.get(f"/v1/runs/{run_id}/signals")
    assert "1.10" in response.text, "as it was sent"
    (listed,) = response.json()["items"]
    assert (listed["name"], listed["no"], listed["payload"]["choice"], listed["key"]) == (
        "approval", 1, "approve", None,
    )  # fmt: skip


async def test_a_signal_with_a_key_is_sent_once_also_when_the_run_has_ended_since(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    run_id = await create(api)
    url, key = f"/v1/runs/{run_id}/signals", {"Idempotency-Key": "k"}
    assert (await api.post(url, json={"name": "go", "payload": 1}, headers=key)).status_code == 201
    again = await api.post(url, json={"name": "go", "payload": 1}, headers=key)
    assert (again.status_code, again.json()["status"]) == (200, "existing")
    for other in ({"name": "go", "payload": 2}, {"name": "stop", "payload": 1}):
        problem = as_problem(await api.post(url, json=other, headers=key), 422, "idempotency-conflict")
        assert problem["code"] == "HW003"
    run, attempt = claim(db)
    finish(db, run, attempt, "succeeded", "1")
    assert (await api.post(url, json={"name": "go", "payload": 1}, headers=key)).status_code == 200
    as_problem(await api.post(url, json={"name": "go"}), 409, "wrong-state")
    assert len((await api.get(url)).json()["items"]) == 1


async def test_a_signal_that_cannot_be_sent_is_refused(
    api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection
) -> None:
    run_id = await create(api)
    rest(db, APPROVAL)
    url = f"/v1/runs/{run_id}/signals"
    for payload in ("perhaps", {"choice": "perhaps"}, None, 7):
        problem = as_problem(await api.post(url, json={"name": "approval", "payload": payload}), 422, "not-a-choice")
        assert (problem["code"], "approve, reject" in problem["detail"]) == ("HW022", True)
    for body in ({}, {"name": ""}, {"name": "a#2"}, {"name": "x" * 201}, {"name": "n", "more": 1}):
        as_problem(await api.post(url, json=body), 422, "invalid-request")
    for text in (b'{"name": "n", "payload": "\\u0000"}', b'{"name": "n", "payload": NaN}'):
        as_problem(await api.post(url, content=text), 422, "bad-value")
    as_problem(await api.post(url, json={"name": "n", "payload": "x" * MAX_BODY}), 413, "too-large")
    foreign = {"Authorization": f"Bearer {keys.other}"}
    for who, where in ((foreign, url), ({}, "/v1/runs/7/signals"), ({}, "/v1/runs/x/signals")):
        as_problem(await api.post(where, json={"name": "approval"}, headers=who), 404, "unknown-run")
        as_problem(await api.get(where, headers=who), 404, "unknown-run")
    assert (await api.get(url)).json() == {"items": [], "next": None}
    admin = {"Authorization": f"Bearer {keys.admin}"}
    approval = {"name": "approval", "payload": "reject"}
    assert (await api.post(url, json=approval, headers=admin)).status_code == 201


async def test_signals_are_listed_in_pages_in_their_order(api: httpx.AsyncClient, task: str) -> None:
    run_id = await create(api)
    sent = [("b b", 1), ("a", 1), ("b b", 2), ("a", 2), ("a", 3)]
    for name, _ in sent:
        await api.post(f"/v1/runs/{run_id}/signals", json={"name": name})
    seen, cursor = [], ""
    while True:
        page = (await api.get(f"/v1/runs/{run_id}/signals?limit=2{cursor}")).json()
        seen += [(item["name"], item["no"]) for item in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == sent
    other = await create(api)
    as_problem(await api.get(f"/v1/runs/{other}/signals?limit=2{cursor}"), 400, "bad-cursor")


async def test_steps_tell_what_they_took_and_how_large_they_are(
    api: httpx.AsyncClient, task: str, db: psycopg.Connection
) -> None:
    run_id = await create(api)
    keep(db, int(run_id), "write", "ask#until", "ask", "pages#children-0", "pages#outputs-0", "call#failed-1", "ask#2")
    items = (await api.get(f"/v1/runs/{run_id}/steps")).json()["items"]
    assert [step["step"] for step in items] == ["write", "ask", "ask#2"], "what a step keeps aside is none"
    assert (items[0]["bytes"], items[0]["output"]) == (7, "write")
    assert 2 <= items[0]["took"] < 60


async def test_a_fork_goes_on_after_the_first_steps(api: httpx.AsyncClient, task: str, db: psycopg.Connection) -> None:
    run_id = await create(api, priority=3, session="case-7")
    keep(db, int(run_id), "a", "b", "c")
    response = await api.post(f"/v1/runs/{run_id}/fork", json={"steps": 2})
    forked = response.json()
    assert (response.status_code, response.headers["location"]) == (201, f"/v1/runs/{forked['id']}")
    assert (forked["task"], forked["args"], forked["priority"]) == (task, {"id": 7}, 3)
    assert (forked["session"], forked["state"], forked["parent"]) == (None, "queued", None)
    assert (await api.get(f"/v1/runs/{forked['id']}")).json() == forked
    assert [step["step"] for step in (await api.get(f"/v1/runs/{forked['id']}/steps")).json()["items"]] == ["a", "b"]
    other = await api.post(f"/v1/runs/{run_id}/fork", json={"steps": 0, "task": "invoice.void"})
    assert other.json()["task"] == "invoice.void"


async def test_a_fork_that_makes_no_sense_is_refused(
    api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection
) -> None:
    db.execute(
        "select register_tasks(array['note'], array['task'], array['mail'],"
        """ array['{"type": "object", "required": ["text"]}'], array[''])"""
    )
    run_id = await create(api)
    keep(db, int(run_id), "a")
    url = f"/v1/runs/{run_id}/fork"
    problem = as_problem(await api.post(url, json={"steps": 2}), 422, "bad-value")
    assert f"run {run_id} has finished 1 step, and 2 were asked for" in problem["detail"]
    for body in ({}, {"steps": -1}, {"steps": "1"}, {"steps": 1, "more": 1}):
        as_problem(await api.post(url, json=body), 422, "invalid-request")
    as_problem(await api.post(url, json={"steps": 1, "task": "invoice.sent"}), 404, "unknown-task")
    as_problem(await api.post(url, json={"steps": 1, "task": "note"}), 422, "invalid-arguments")
    foreign = {"Authorization": f"Bearer {keys.other}"}
    as_problem(await api.post(url, json={"steps": 1}, headers=foreign), 404, "unknown-run")
    as_problem(await api.post("/v1/runs/7/fork", json={"steps": 1}), 404, "unknown-run")
    db.execute("""select set_queue_limits('mail', '{"max_queued": 1}'); select count_depths()""")
    full = await api.post(url, json={"steps": 1})
    as_problem(full, 429, "queue-full")
    assert full.headers["retry-after"] == "1"
    assert db.execute("select count(*) from run").fetchone() == (1,)


async def test_children_are_listed_and_a_tree_shows_them_all(
    api: httpx.AsyncClient, keys: Keys, task: str, db: psycopg.Connection
) -> None:
    root = await create(api)
    claimed, _ = claim(db)
    children = spawn(db, claimed, "pages", 3)
    await create(api)
    child, _ = claim(db)
    assert child == children[0]
    (grandchild,) = spawn(db, child, "lines", 1)
    failed, at = claim(db)
    assert failed == children[1]
    finish(db, failed, at, "failed", '{"type": "ValueError", "message": "bad"}')

    listed = (await api.get(f"/v1/runs?parent={root}")).json()["items"]
    assert [int(run["id"]) for run in listed] == children[::-1], "live and over, newest first"
    assert {(run["parent"], run["parent_step"]) for run in listed} == {(root, "pages")}
    nobodys = (await api.get("/v1/runs?parent=none")).json()["items"]
    assert root in {run["id"] for run in nobodys}
    assert {run["parent"] for run in nobodys} == {None}
    assert (await api.get("/v1/runs?parent=none&state=failed")).json()["items"] == []
    (one,) = (await api.get(f"/v1/runs?parent={root}&state=failed")).json()["items"]
    assert int(one["id"]) == failed
    assert (await api.get(f"/v1/runs/{failed}")).json()["parent"] == root

    tree = (await api.get(f"/v1/runs/{root}/tree")).json()
    assert [(int(r["id"]), r["parent"], r["step"], r["depth"], r["state"], r["error"]) for r in tree["items"]] == [
        (int(root), None, None, 0, "running", None),
        (children[0], root, "pages", 1, "running", None),
        (children[1], root, "pages", 1, "failed", "ValueError: bad"),
        (children[2], root, "pages", 1, "queued", None),
        (grandchild, str(child), "lines", 2, "queued", None),
    ]
    assert {run["task"] for run in tree["items"]} == {task, "invoice.void"}
    assert tree["more"] is False
    part = (await api.get(f"/v1/runs/{root}/tree?limit=2")).json()
    assert ([int(run["id"]) for run in part["items"]], part["more"]) == ([int(root), children[0]], True)
    exact = (await api.get(f"/v1/runs/{root}/tree?limit=5")).json()
    assert (len(exact["items"]), exact["more"]) == (5, False)

    db.execute(
        "select flush(array[%s]::bigint[], array[1], '{outcome}', '{wait}', array[%s], array[null],"
        " array[null::timestamptz])",
        [claimed, '[{"children": "pages"}]'],
    )
    waits = {"kind": "children", "name": "pages", "choices": None, "until": None}
    assert (await api.get(f"/v1/runs/{root}")).json()["awaits"] == [waits]

    foreign = {"Authorization": f"Bearer {keys.other}"}
    assert (await api.get(f"/v1/runs?parent={root}", headers=foreign)).json()["items"] == []
    as_problem(await api.get(f"/v1/runs/{root}/tree", headers=foreign), 404, "unknown-run")
    as_problem(await api.get("/v1/runs/7/tree"), 404, "unknown-run")
    as_problem(await api.get(f"/v1/runs/{root}/tree?limit=1001"), 400, "invalid-request")
    as_problem(await api.get("/v1/runs?parent=x"), 404, "unknown-run")
