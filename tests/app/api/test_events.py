"""Events over HTTP: appended, read in pages, and streamed by server-sent events that can be left and resumed."""

from __future__ import annotations

import json
import signal
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import psycopg
import pytest
from httpx_sse import EventSource, ServerSentEvent

from tests.app.api.test_sessions import problem
from tests.app.api_servers import PATIENCE, api_process, client_for

EVENTS = "/v1/sessions/case-7/events"
ACCEPT = {"Accept": "text/event-stream"}


@pytest.fixture(autouse=True)
def session(db: psycopg.Connection, acme_key: str) -> str:
    db.execute("select create_session('acme', 'case-7')")
    return "case-7"


def append(client: httpx.Client, *types: str) -> list[dict[str, Any]]:
    response = client.post(EVENTS, json={"events": [{"type": kind} for kind in types]})
    assert response.status_code == 201, response.text
    items: list[dict[str, Any]] = response.json()["items"]
    return items


def stored(db: psycopg.Connection) -> int:
    row = db.execute("select count(*) from event").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def stream(client: httpx.Client, path: str = EVENTS, last_id: str | None = None, **query: Any) -> Iterator[Any]:
    """The events of a stream, as an iterator."""
    headers = ACCEPT if last_id is None else {**ACCEPT, "Last-Event-ID": last_id}
    with client.stream("GET", path, params=query, headers=headers) as response:
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        yield EventSource(response).iter_sse()


def numbers(events: list[ServerSentEvent]) -> list[int]:
    """Numbers of the data events, which have no name."""
    return [int(event.json()["sequence"]) for event in events if event.event == "message" and event.data]


def take(events: Iterator[ServerSentEvent], count: int) -> list[ServerSentEvent]:
    """The next `count` data events."""
    taken: list[ServerSentEvent] = []
    while len(taken) < count:
        event = next(events)
        if event.event == "message" and event.data:
            taken.append(event)
    return taken


def test_an_event_is_appended_and_read_as_a_cloud_event(acme: httpx.Client) -> None:
    appended = acme.post(EVENTS, json={"type": "note.added", "data": {"text": "called back", "n": 1e2}})
    assert appended.status_code == 201
    assert appended.json() == {"index": 0, "status": 201, "seq": 1}
    page = acme.get(appended.headers["location"]).json()
    [event] = page["events"]
    assert {**event, "time": None} == {
        "specversion": "1.0",
        "id": "case-7/1",
        "source": "/tenants/acme/sessions/case-7",
        "type": "note.added",
        "time": None,
        "sequence": "00000000000000000001",
        "datacontenttype": "application/json",
        "data": {"text": "called back", "n": 100},
    }


def test_the_event_of_a_run_names_it(acme: httpx.Client, db: psycopg.Connection) -> None:
    run = start_run(db)
    db.execute(FLUSH, [run, "event", "note.added"])
    [event] = acme.get(f"/v1/runs/{run}/events").json()["events"]
    assert (event["subject"], event["id"]) == (str(run), f"run:{run}/1")


def test_a_batch_is_numbered_in_its_order(acme: httpx.Client) -> None:
    assert append(acme, *(f"t{number}" for number in range(500))) == [
        {"index": number, "status": 201, "seq": number + 1} for number in range(500)
    ]
    page = acme.get(EVENTS, params={"limit": 500}).json()
    assert [event["type"] for event in page["events"]] == [f"t{number}" for number in range(500)]


def test_a_key_seen_before_changes_nothing(acme: httpx.Client) -> None:
    body = {"type": "note.added", "key": "k-1"}
    assert acme.post(EVENTS, json=body).status_code == 201
    again = acme.post(EVENTS, json=body)
    assert (again.status_code, again.json()["seq"]) == (200, 1)
    batch = acme.post(EVENTS, json={"events": [body, {"type": "next"}]}).json()["items"]
    assert [(item["status"], item["seq"]) for item in batch] == [(200, 1), (201, 2)]


def test_a_bad_event_of_a_batch_fails_alone(acme: httpx.Client, db: psycopg.Connection) -> None:
    large = {"type": "large", "data": "x" * 262_144}
    # Numeric beyond what the database can hold: only it can tell.
    body = {"events": [{"type": "a"}, large, {"type": "huge", "data": "HUGE"}, {"type": "b"}]}
    response = acme.post(EVENTS, content=json.dumps(body).replace('"HUGE"', "1" + "0" * 140_000))
    items = response.json()["items"]
    assert [(item["status"], item.get("seq")) for item in items] == [(201, 1), (413, None), (422, None), (201, 2)]
    assert [items[1]["problem"]["code"], items[2]["problem"]["code"]] == ["HW015", "HW016"]
    assert stored(db) == 2


def test_an_event_for_an_unknown_session_is_a_problem(acme: httpx.Client, db: psycopg.Connection) -> None:
    path = "/v1/sessions/nowhere/events"
    assert "'nowhere'" in problem(acme.post(path, json={"type": "a"}), 404, "HW006")
    problem(acme.post(path, json={"events": [{"type": "a"}, {"type": "b"}]}), 404, "HW006")
    problem(acme.get(path), 404, "HW006")
    problem(acme.get(path, headers=ACCEPT), 404, "HW006")
    assert stored(db) == 0


def test_an_event_for_a_closed_session_is_a_problem(acme: httpx.Client, db: psycopg.Connection) -> None:
    acme.post("/v1/sessions/case-7/close")
    problem(acme.post(EVENTS, json={"type": "a"}), 409, "HW007")
    problem(acme.post(EVENTS, json={"events": [{"type": "a"}]}), 409, "HW007")
    assert stored(db) == 0


def test_another_tenant_s_session_takes_and_gives_no_events(
    acme: httpx.Client, other: httpx.Client, db: psycopg.Connection
) -> None:
    append(acme, "secret")
    run = start_run(db)
    problem(other.post(EVENTS, json={"type": "a"}), 404, "HW006")
    problem(other.get(EVENTS), 404, "HW006")
    problem(other.get(EVENTS, headers=ACCEPT), 404, "HW006")
    problem(other.get(f"/v1/runs/{run}/events"), 404, "HW002")
    assert stored(db) == 1


BAD_EVENTS: list[tuple[bytes, int, str | None]] = [
    (b'{"type": "a", "data": "x\\u0000y"}', 422, "HW016"),
    (b'{"type": "a\\u0000", "data": 1}', 422, "HW016"),
    (b'{"type": "a", "data": "\\ud800"}', 422, "HW016"),
    (b'{"type": "a", "data": NaN}', 422, "HW016"),
    (b'{"events": [{"type": "a"}, {"type": "b", "data": [Infinity]}]}', 422, "HW016"),
    (b'{"type": "a", "data": "' + b"x" * 262_144 + b'"}', 413, "HW015"),
    (b'{"type": "a", "data": \xff}', 400, None),
    (b'{"type": "a"', 400, None),
    (b"", 422, None),
    (b"[]", 422, None),
    (b"{}", 422, None),
    (b'{"events": []}', 422, None),
    (b'{"type": "a", "events": [{"type": "a"}]}', 422, None),
    (b'{"type": ""}', 422, None),
    (b'{"type": "a", "unknown": 1}', 422, None),
    (json.dumps({"type": "a" * 201}).encode(), 422, None),
    (json.dumps({"events": [{"type": "a"}] * 501}).encode(), 422, None),
]


def test_bad_input_is_a_problem_and_nothing_is_stored(acme: httpx.Client, db: psycopg.Connection) -> None:
    for body, status, code in BAD_EVENTS:
        problem(acme.post(EVENTS, content=body, headers={"Content-Type": "application/json"}), status, code)
    assert stored(db) == 0


def test_pages_go_on_where_the_one_before_ended(acme: httpx.Client) -> None:
    append(acme, *"abcde")
    seen: list[str] = []
    after = 0
    while len(seen) < 5:
        page = acme.get(EVENTS, params={"after": after, "limit": 2}).json()
        seen += [event["type"] for event in page["events"]]
        after = page["next"]
    assert seen == list("abcde")
    assert acme.get(EVENTS, params={"after": after}).json() == {
        "events": [],
        "next": 5,
        "first_seq": 1,
        "last_seq": 5,
        "closed": False,
    }


def test_a_page_of_one_type_passes_over_the_others(acme: httpx.Client) -> None:
    append(acme, *"abababb")
    first = acme.get(EVENTS, params={"type": "a", "limit": 2}).json()
    assert [event["id"] for event in first["events"]] == ["case-7/1", "case-7/3"]
    second = acme.get(EVENTS, params={"type": "a", "limit": 2, "after": first["next"]}).json()
    assert ([event["id"] for event in second["events"]], second["next"]) == (["case-7/5"], 7)


def test_a_parameter_out_of_bounds_is_a_problem(acme: httpx.Client) -> None:
    for query in ("after=x", "after=-1", f"after={1 << 63}", "limit=0", "limit=501"):
        problem(acme.get(f"{EVENTS}?{query}"), 400)


def test_events_need_a_key(api_url: str) -> None:
    with client_for(api_url, None) as nobody, client_for(api_url, "hwd_no_key") as wrong:
        for client in (nobody, wrong):
            problem(client.get(EVENTS), 401)
            problem(client.get(EVENTS, headers=ACCEPT), 401)
            problem(client.post(EVENTS, json={"type": "a"}), 401)


def test_a_stream_begins_with_an_id_and_a_retry_before_any_event(acme: httpx.Client) -> None:
    with stream(acme) as events:
        first = next(events)
        assert (first.data, first.event) == ("", "message")
        assert first.id
        assert 1_000 < first.retry < 5_000
        append(acme, "a", "b")
        assert numbers(take(events, 2)) == [1, 2]
    with stream(acme, last_id=first.id) as events:
        assert numbers(take(events, 2)) == [1, 2]


def test_a_stream_has_its_headers(acme: httpx.Client) -> None:
    with acme.stream("GET", EVENTS, headers=ACCEPT) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["vary"] == "Accept"
    assert acme.get(EVENTS).headers["vary"] == "Accept"


def test_a_stream_is_resumed_after_the_last_id_without_gap_or_repeat(acme: httpx.Client) -> None:
    append(acme, *"abcdefgh")
    with stream(acme) as events:
        first = take(events, 3)
    with stream(acme, last_id=first[-1].id) as events:
        second = take(events, 2)
    with stream(acme, last_event_id=second[-1].id) as events:
        append(acme, "i")
        assert numbers(first + second + take(events, 4)) == list(range(1, 10))


def test_an_id_that_is_not_of_this_stream_resets_it(acme: httpx.Client, db: psycopg.Connection) -> None:
    append(acme, "a")
    db.execute("select create_session('acme', 'case-8')")
    acme.post("/v1/sessions/case-8/events", json={"type": "other"})
    with stream(acme, "/v1/sessions/case-8/events") as events:
        [of_other] = take(events, 1)
    with stream(acme) as events:
        own = next(events).id
    head = urlsafe_b64decode(own + "==")[:-1]
    forged = [
        urlsafe_b64encode(head + rest).decode().rstrip("=")
        for rest in (b"", b"\x80", b"\1\x80", b"\0\0", b"\xff" * 9 + b"\x7f")
    ]
    for last_id in (*forged, "garbage", "AAAA", of_other.id, "%00", "é".encode().decode("latin-1")):
        with stream(acme, last_event_id=last_id) as events:
            next(events)
            reset = next(events)
            assert (reset.event, "detail" in reset.json()) == ("howdah.reset", True)
            assert numbers(take(events, 1)) == [1]


def test_an_id_of_another_tenant_s_session_of_the_same_name_resets_a_stream(
    acme: httpx.Client, other: httpx.Client
) -> None:
    other.post("/v1/sessions", json={"id": "case-7"})
    append(other, *"ab")
    append(acme, *"ab")
    with stream(other) as events:
        of_other = take(events, 1)[-1]
    with stream(acme, last_id=of_other.id) as events:
        next(events)
        assert next(events).event == "howdah.reset"
        assert numbers(take(events, 2)) == [1, 2]


@pytest.mark.parametrize("closed", [False, True])
def test_who_has_seen_more_than_there_is_is_told_and_gets_all(
    acme: httpx.Client, db: psycopg.Connection, closed: bool
) -> None:
    append(acme, *"abcd")
    with stream(acme) as events:
        last = take(events, 4)[-1]
    # A database that was restored from before.
    db.execute("delete from event where seq > 2")
    db.execute("update session set last_seq = 2")
    if closed:
        acme.post("/v1/sessions/case-7/close")
    for place in ({"last_id": last.id}, {"after": 3}, {"after": (1 << 63) - 1}):
        with stream(acme, **place) as events:
            next(events)
            assert next(events).event == "howdah.reset"
            assert numbers(take(events, 2)) == [1, 2]
            assert not closed or next(events).event == "howdah.end"


def test_the_stream_of_a_closed_session_ends_after_its_last_event_and_then_is_over(acme: httpx.Client) -> None:
    append(acme, "a", "b")
    with stream(acme) as events:
        acme.post("/v1/sessions/case-7/close")
        rest = list(events)
    assert numbers(rest) == [1, 2]
    assert (rest[-1].event, rest[-1].json()) == ("howdah.end", {"last_sequence": {"case-7": f"{2:020}"}})
    again = acme.get(EVENTS, headers={**ACCEPT, "Last-Event-ID": rest[-2].id})
    assert (again.status_code, again.content) == (204, b"")
    with stream(acme) as events:
        assert numbers(list(events)) == [1, 2]


FLUSH = "select flush(array[%s::bigint], '{1}', array[%s], array[%s], array['{}'], '{null}', '{null}')"


def start_run(db: psycopg.Connection, session: str | None = None) -> int:
    row = db.execute("select run_id from enqueue_run('acme', 'invoice.send', p_session => %s)", [session]).fetchone()
    assert row is not None
    db.execute("select claim_runs(w.worker_id, '{default}', 1) from register_worker('w', '{default}') as w")
    return int(row[0])


def test_the_stream_of_a_run_follows_it_to_its_end(acme: httpx.Client, db: psycopg.Connection) -> None:
    run = start_run(db)
    with stream(acme, f"/v1/runs/{run}/events") as events:
        db.execute(FLUSH, [run, "event", "progress"])
        assert numbers(take(events, 1)) == [1]
        db.execute(FLUSH, [run, "outcome", "succeeded"])
        assert [event.event for event in events][-1] == "howdah.end"
    assert acme.get(f"/v1/runs/{run}/events", params={"after": 1}, headers=ACCEPT).status_code == 204


def test_the_events_of_a_run_with_a_session_are_the_session_s(acme: httpx.Client, db: psycopg.Connection) -> None:
    append(acme, "a")
    run = start_run(db, "case-7")
    db.execute(FLUSH, [run, "event", "b"])
    page = acme.get(f"/v1/runs/{run}/events").json()
    assert [event["type"] for event in page["events"]] == ["a", "b"]


def test_the_events_of_an_unknown_run_are_a_problem(acme: httpx.Client) -> None:
    for run in ("12", "x", "99999999999999999999"):
        problem(acme.get(f"/v1/runs/{run}/events"), 404, "HW002")
        problem(acme.get(f"/v1/runs/{run}/events", headers=ACCEPT), 404, "HW002")


def test_a_stream_goes_on_from_another_process_when_its_own_is_killed(
    database_url: str, acme_key: str, db: psycopg.Connection
) -> None:
    def write(count: int) -> None:
        for _ in range(count):
            db.execute("select append_event('acme', 'case-7', 'note.added')")

    seen: list[ServerSentEvent] = []
    with api_process(database_url) as first, api_process(database_url) as second:
        with client_for(first.url, acme_key) as client, stream(client) as events:
            write(20)
            seen += take(events, 5)
            first.kill()
            write(20)
            with suppress(httpx.TransportError, StopIteration):
                while True:
                    seen += take(events, 1)
        assert 5 <= len(seen) <= 20
        with client_for(second.url, acme_key) as client, stream(client, last_id=seen[-1].id) as events:
            write(20)
            seen += take(events, 60 - len(seen))
    assert numbers(seen) == list(range(1, 61))


def test_streams_end_at_once_on_sigterm_and_say_when_to_come_back(
    database_url: str, acme_key: str, db: psycopg.Connection
) -> None:
    db.execute("select append_event('acme', 'case-7', 'note.added')")
    with api_process(database_url) as process, client_for(process.url, acme_key) as client, stream(client) as events:
        assert numbers(take(events, 1)) == [1]
        process.process.terminate()
        [last] = list(events)
        assert last.retry is not None
        assert last.event != "howdah.end"
        # uvicorn ends by the signal itself once all is closed.
        assert process.process.wait(PATIENCE) in (0, -signal.SIGTERM)


def test_a_page_from_before_what_is_kept_tells_of_the_gap(acme: httpx.Client, db: psycopg.Connection) -> None:
    append(acme, *"abc")
    db.execute("select set_tenant_event_days('acme', 1)")
    db.execute("select set_config('howdah.now', (now() + interval '3 days')::text, false)")
    db.execute("select append_event('acme', 'case-7', 'd')")
    db.execute("select cut_sessions(null)")
    page = acme.get(EVENTS, params={"after": 1}).json()
    assert (page["gap"], page["first_seq"], page["next"]) == ({"from": 2, "to": 3}, 4, 4)
    assert [event["id"] for event in page["events"]] == ["case-7/4"]
    assert "gap" not in acme.get(EVENTS, params={"after": 3}).json()
