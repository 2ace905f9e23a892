"""Sessions over HTTP."""

from __future__ import annotations

import httpx
import psycopg


def problem(response: httpx.Response, status: int, code: str | None = None) -> str:
    """The detail of a problem document, which the response must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document.get("code") == code
    return str(document["detail"])


def test_a_session_is_opened_once_and_found_again(acme: httpx.Client) -> None:
    first = acme.post("/v1/sessions", json={"id": "case-7"})
    assert (first.status_code, first.headers["location"]) == (201, "/v1/sessions/case-7")
    again = acme.post("/v1/sessions", json={"id": "case-7"})
    assert (again.status_code, again.json()) == (200, first.json())
    found = acme.get("/v1/sessions/case-7")
    assert found.json() == first.json()
    assert {**found.json(), "created_at": None} == {
        "id": "case-7",
        "tenant": "acme",
        "state": "open",
        "last_seq": 0,
        "first_seq": 1,
        "created_at": None,
        "closed_at": None,
        "event_window": None,
    }


def test_a_session_without_an_id_is_given_one(acme: httpx.Client) -> None:
    made = acme.post("/v1/sessions", json={})
    assert made.status_code == 201
    assert acme.get(made.headers["location"]).json()["id"] == made.json()["id"]


def test_a_closed_session_stays_closed(acme: httpx.Client) -> None:
    acme.post("/v1/sessions", json={"id": "case-7"})
    closed = acme.post("/v1/sessions/case-7/close")
    assert closed.status_code == 200
    assert closed.json()["state"] == "closed"
    assert acme.post("/v1/sessions/case-7/close").json() == closed.json()


def test_an_id_that_is_no_name_is_refused_and_nothing_is_stored(acme: httpx.Client, db: psycopg.Connection) -> None:
    for name in ("", "run:7", "a/b", "a b", "-a", "x" * 129, "case\n"):
        response = acme.post("/v1/sessions", json={"id": name})
        problem(response, 422)
        assert response.json()["errors"][0]["pointer"] == "/id"
    assert db.execute("select count(*) from session").fetchone() == (0,)


def test_an_unknown_session_is_a_problem(acme: httpx.Client) -> None:
    assert "'nowhere'" in problem(acme.get("/v1/sessions/nowhere"), 404, "HW006")
    problem(acme.post("/v1/sessions/nowhere/close"), 404, "HW006")
    problem(acme.get("/v1/sessions/run:12"), 404, "HW006")
    problem(acme.get("/v1/sessions/run:99999999999999999999999"), 404, "HW006")


def test_another_tenant_s_session_is_unknown(acme: httpx.Client, other: httpx.Client) -> None:
    acme.post("/v1/sessions", json={"id": "case-7"})
    problem(other.get("/v1/sessions/case-7"), 404, "HW006")
    problem(other.post("/v1/sessions/case-7/close"), 404, "HW006")
    assert acme.get("/v1/sessions/case-7").json()["state"] == "open"
    assert other.post("/v1/sessions", json={"id": "case-7"}).status_code == 201


def test_pages_hold_every_session_once_newest_first(acme: httpx.Client, other: httpx.Client) -> None:
    other.post("/v1/sessions", json={"id": "not-mine"})
    for number in range(5):
        acme.post("/v1/sessions", json={"id": f"s{number}"})
    pages = [acme.get("/v1/sessions", params={"limit": 2}).json()]
    while pages[-1]["next"] is not None:
        pages.append(acme.get("/v1/sessions", params={"limit": 2, "cursor": pages[-1]["next"]}).json())
    assert [[session["id"] for session in page["items"]] for page in pages] == [["s4", "s3"], ["s2", "s1"], ["s0"]]


def test_a_bad_cursor_is_a_problem(acme: httpx.Client) -> None:
    for cursor in ("x", "", "AAAA", "é"):
        problem(acme.get("/v1/sessions", params={"cursor": cursor}), 400)


def test_the_session_of_a_run_is_there_with_the_run_and_closed_when_it_is_over(
    acme: httpx.Client, db: psycopg.Connection
) -> None:
    row = db.execute("select run_id from enqueue_run('acme', 'invoice.send')").fetchone()
    assert row is not None
    session = f"/v1/sessions/run:{row[0]}"
    assert (acme.get(session).json()["state"], acme.get(session).json()["last_seq"]) == ("open", 0)
    db.execute("select claim_runs(w.worker_id, '{default}', 1) from register_worker('w', '{default}') as w")
    flush = "select flush(array[%s::bigint], '{1}', array[%s], array[%s], array['{}'], '{null}', '{null}')"
    db.execute(flush, [row[0], "event", "note.added"])
    assert (acme.get(session).json()["state"], acme.get(session).json()["last_seq"]) == ("open", 1)
    db.execute(flush, [row[0], "outcome", "succeeded"])
    assert (acme.get(session).json()["state"], acme.get(session).json()["last_seq"]) == ("closed", 1)


def test_a_session_of_which_nothing_is_kept_is_found_and_goes_on(acme: httpx.Client, db: psycopg.Connection) -> None:
    acme.post("/v1/sessions", json={"id": "case-7"})
    acme.post("/v1/sessions/case-7/events", json={"type": "a"})
    db.execute("select set_config('howdah.now', (now() + interval '9 days')::text, false)")
    db.execute("select cut_sessions(7)")
    found = acme.get("/v1/sessions/case-7").json()
    assert (found["state"], found["first_seq"], found["last_seq"]) == ("open", 2, 1)
    assert acme.get("/v1/sessions").json()["items"] == [found]
    assert acme.post("/v1/sessions/case-7/events", json={"type": "b"}).json()["seq"] == 2
    page = acme.get("/v1/sessions/case-7/events").json()
    assert (page["gap"], [event["id"] for event in page["events"]]) == ({"from": 1, "to": 1}, ["case-7/2"])
