"""Consumers over HTTP: named, acknowledged, waited for; events are refused while one is too far behind."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from tests.app.api.test_sessions import problem
from tests.app.api_servers import PATIENCE

SESSION = "/v1/sessions/case-7"
EVENTS, CONSUMERS = f"{SESSION}/events", f"{SESSION}/consumers"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def session(acme: httpx.Client) -> None:
    assert acme.post("/v1/sessions", json={"id": "case-7", "event_window": 3}).json()["event_window"] == 3


def append(client: httpx.Client, count: int) -> None:
    assert client.post(EVENTS, json={"events": [{"type": "a"}] * count}).status_code == 201


def test_a_consumer_is_named_found_and_forgotten(acme: httpx.Client) -> None:
    append(acme, 5)
    put = acme.put(f"{CONSUMERS}/billing", json={"required": True, "from": 3})
    assert put.status_code == 201
    assert {**put.json(), "created_at": None} == {
        "name": "billing",
        "required": True,
        "acked_seq": 2,
        "lag": 3,
        "created_at": None,
        "acked_at": None,
    }
    again = acme.put(f"{CONSUMERS}/billing", json={"from": "now"})
    assert (again.status_code, again.json()["acked_seq"], again.json()["required"]) == (200, 2, False)
    assert acme.put(f"{CONSUMERS}/audit", json={}).json()["lag"] == 5
    assert acme.put(f"{CONSUMERS}/fresh", json={"from": "now"}).json()["lag"] == 0
    assert [each["name"] for each in acme.get(CONSUMERS).json()["items"]] == ["audit", "billing", "fresh"]
    assert acme.delete(f"{CONSUMERS}/audit").status_code == 204
    problem(acme.delete(f"{CONSUMERS}/audit"), 404, "HW023")
    problem(acme.get(f"{CONSUMERS}/audit"), 404, "HW023")


def test_acknowledgements_only_go_forward(acme: httpx.Client) -> None:
    append(acme, 5)
    acme.put(f"{CONSUMERS}/c", json={})
    acked = [acme.post(f"{CONSUMERS}/c/ack", json={"sequence": n}).json()["acked_seq"] for n in (3, 1, 5, 0)]
    assert acked == [3, 3, 5, 5]
    assert acme.get(f"{CONSUMERS}/c").json()["acked_at"] is not None


def test_a_consumer_has_time_after_the_end_for_what_it_has_not_acknowledged(acme: httpx.Client) -> None:
    append(acme, 3)
    acme.put(f"{CONSUMERS}/c", json={"required": True})
    assert acme.post(f"{SESSION}/close").status_code == 200
    assert acme.post(f"{CONSUMERS}/c/ack", json={"sequence": 1}).json()["acked_seq"] == 1
    mine = {"params": {"consumer": "c"}, "headers": {"Accept": "text/event-stream"}}
    told = acme.get(EVENTS, **mine).text
    assert [f'"id":"case-7/{number}"' in told for number in (1, 2, 3)] == [False, True, True]
    assert "event: howdah.end" in told
    problem(acme.post(f"{CONSUMERS}/c/ack", json={"sequence": 4}), 422, "HW024")
    assert acme.post(f"{CONSUMERS}/c/ack", json={"sequence": 3}).json()["acked_seq"] == 3
    assert acme.get(EVENTS, **mine).status_code == 204


def test_what_makes_no_sense_is_a_problem_and_changes_nothing(acme: httpx.Client, other: httpx.Client) -> None:
    append(acme, 2)
    acme.put(f"{CONSUMERS}/c", json={})
    problem(acme.post(f"{CONSUMERS}/c/ack", json={"sequence": 3}), 422, "HW024")
    problem(acme.post(f"{CONSUMERS}/nobody/ack", json={"sequence": 1}), 404, "HW023")
    for garbage in (-1, 1.5, "2", None, 1 << 63, True, [1]):
        problem(acme.post(f"{CONSUMERS}/c/ack", json={"sequence": garbage}), 422)
    problem(acme.post(f"{CONSUMERS}/c/ack", json={}), 422)
    problem(acme.put(f"{CONSUMERS}/d", json={"from": 9}), 422, "HW024")
    for first in (0, "end", -1, 1 << 63, None):
        problem(acme.put(f"{CONSUMERS}/d", json={"from": first}), 422)
    problem(acme.put(f"{CONSUMERS}/-bad", json={}), 422, "HW016")
    problem(acme.put(f"{CONSUMERS}/%00", json={}), 422, "HW016")
    for call in (
        other.get(CONSUMERS),
        other.put(f"{CONSUMERS}/c", json={}),
        other.delete(f"{CONSUMERS}/c"),
        other.post(f"{CONSUMERS}/c/ack", json={"sequence": 1}),
        other.patch(SESSION, json={"event_window": None}),
    ):
        problem(call, 404, "HW006")
    problem(other.get(f"{CONSUMERS}/c"), 404, "HW023")
    assert acme.get(f"{CONSUMERS}/c").json()["acked_seq"] == 0


def test_a_full_session_answers_429_and_takes_again_when_its_consumer_has_caught_up(acme: httpx.Client) -> None:
    acme.put(f"{CONSUMERS}/slow", json={"required": True})
    batch = acme.post(EVENTS, json={"events": [{"type": "a"}] * 4}).json()["items"]
    assert [item["status"] for item in batch] == [201, 201, 201, 429]
    assert batch[3]["problem"]["type"] == "urn:howdah:problem:session-full"
    for body in ({"type": "a"}, {"events": [{"type": "a"}] * 2}):
        full = acme.post(EVENTS, json=body)
        problem(full, 429, "HW025")
        assert full.headers["retry-after"] == "1"
    acme.post(f"{CONSUMERS}/slow/ack", json={"sequence": 1})
    assert acme.post(EVENTS, json={"type": "a"}).json()["seq"] == 4
    assert acme.post(EVENTS, json={"type": "a"}).status_code == 429
    assert acme.patch(SESSION, json={"event_window": None}).json()["event_window"] is None
    assert acme.post(EVENTS, json={"type": "a"}).json()["seq"] == 5
    for window in (0, -1, 1.5, "3"):
        problem(acme.patch(SESSION, json={"event_window": window}), 422)


def test_an_acknowledgement_that_makes_room_in_a_full_session_is_told_and_no_other(
    acme: httpx.Client, db: psycopg.Connection
) -> None:
    acme.put(f"{CONSUMERS}/slow", json={"required": True})
    acme.put(f"{CONSUMERS}/slower", json={"required": True})
    append(acme, 2)
    db.execute('listen "howdah.room"')

    def ack(name: str, sequence: int) -> list[str]:
        acme.post(f"{CONSUMERS}/{name}/ack", json={"sequence": sequence})
        db.execute("notify \"howdah.room\", 'end'")
        told: list[str] = []
        for notification in db.notifies(timeout=PATIENCE):
            if notification.payload == "end":
                break
            told.append(notification.payload)
        return told

    assert ack("slow", 1) == ack("slower", 1) == []  # It was not full.
    append(acme, 2)
    assert ack("slow", 2) == []  # The other one is as far behind as it was.
    told = ack("slower", 2)  # The hint goes after the commit: perhaps behind the end.
    assert (told or [each.payload for each in db.notifies(timeout=PATIENCE, stop_after=1)]) == ["acme/case-7"]
    assert ack("slower", 3) == []


def test_a_producer_says_what_a_cloud_event_has(acme: httpx.Client, db: psycopg.Connection) -> None:
    said = {"type": "a", "source": "/billing/eu?x=1#y", "subject": "invoice 7", "traceparent": TRACE}
    acme.post(EVENTS, json=said)
    acme.post(
        EVENTS, json={"events": [{"type": "b"}, {"type": "c", "source": "urn:x"}]}, headers={"traceparent": TRACE}
    )
    acme.post(EVENTS, json={"type": "d"}, headers={"traceparent": "nonsense"})
    first, second, third, fourth = acme.get(EVENTS).json()["events"]
    assert {name: first[name] for name in said} == said
    assert (second["source"], second["traceparent"]) == ("/tenants/acme/sessions/case-7", TRACE)
    assert (third["source"], third["traceparent"]) == ("urn:x", TRACE)
    assert "traceparent" not in fourth
    for bad in (
        {"source": "a b"},
        {"source": ""},
        {"source": "x" * 256},
        {"subject": "x" * 256},
        {"subject": ""},
        {"traceparent": TRACE.upper()},
        {"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"},
        {"traceparent": TRACE + "\n"},
    ):
        problem(acme.post(EVENTS, json={"type": "a", **bad}), 422)
    assert db.execute("select count(*) from event").fetchone() == (4,)
