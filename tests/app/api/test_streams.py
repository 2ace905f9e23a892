"""Streams as clients meet them: many sessions at once, filters, who is let in, who is sent away, who is let go."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

import httpx
import psycopg
import pytest
from httpx_sse import EventSource, ServerSentEvent
from psycopg.sql import SQL, Identifier

from howdah.app.api import streams as streams_module
from howdah.app.realtime import rounds
from tests.app.api.test_events import ACCEPT, append, numbers, stream, take
from tests.app.api.test_sessions import problem
from tests.app.api_servers import PATIENCE, api_process, api_thread, client_for
from tests.conftest import Databases

AS_EVENT_SOURCE = {**ACCEPT, "Cache-Control": "no-cache"}


@pytest.fixture(autouse=True)
def sessions(db: psycopg.Connection, acme_key: str) -> list[str]:
    names = ["case-7", "case-8", "case-9"]
    for name in names:
        db.execute("select create_session('acme', %s)", [name])
    return names


def write(db: psycopg.Connection, session: str, *types: str) -> None:
    for kind in types:
        db.execute("select append_event('acme', %s, %s)", [session, kind])


@contextmanager
def many(client: httpx.Client, *sessions: str, last_id: str | None = None) -> Iterator[Iterator[ServerSentEvent]]:
    """One stream over these sessions."""
    headers = ACCEPT if last_id is None else {**ACCEPT, "Last-Event-ID": last_id}
    with client.stream("GET", "/v1/events", params={"session": sessions}, headers=headers) as response:
        assert response.status_code == 200, response.read()
        yield EventSource(response).iter_sse()


def ids(events: list[ServerSentEvent]) -> list[str]:
    return [event.json()["id"] for event in events]


def test_one_stream_follows_many_sessions_and_is_resumed_in_all_of_them(
    acme: httpx.Client, db: psycopg.Connection, sessions: list[str]
) -> None:
    with many(acme, *sessions) as events:
        write(db, "case-7", "a", "b")
        write(db, "case-9", "c")
        first = take(events, 3)
    write(db, "case-8", "d")
    write(db, "case-7", "e")
    with many(acme, *sessions, last_id=first[-1].id) as events:
        second = take(events, 2)
    assert sorted(ids(first)) == ["case-7/1", "case-7/2", "case-9/1"]
    assert sorted(ids(second)) == ["case-7/3", "case-8/1"]


def test_an_id_of_other_sessions_or_of_another_order_resets_a_stream(
    acme: httpx.Client, db: psycopg.Connection
) -> None:
    write(db, "case-7", "a")
    write(db, "case-8", "b")
    with many(acme, "case-7", "case-8") as events:
        seen = take(events, 2)[-1]
    # Its numbers would do for the sessions the other way round, too.
    with many(acme, "case-8", "case-7", last_id=seen.id) as events:
        next(events)
        assert next(events).event == "howdah.reset"
        assert sorted(ids(take(events, 2))) == ["case-7/1", "case-8/1"]


def test_a_stream_over_sessions_ends_when_all_are_closed(acme: httpx.Client, db: psycopg.Connection) -> None:
    write(db, "case-7", "a")
    with many(acme, "case-7", "case-8") as events:
        acme.post("/v1/sessions/case-7/close")
        take(events, 1)
        write(db, "case-8", "b")
        last = take(events, 1)[-1]
        acme.post("/v1/sessions/case-8/close")
        assert [event.event for event in events] == ["howdah.end"]
    over = acme.get(
        "/v1/events", params={"session": ["case-7", "case-8"]}, headers={**ACCEPT, "Last-Event-ID": last.id}
    )
    assert over.status_code == 204


def test_a_stream_over_none_too_many_unknown_or_foreign_sessions_is_a_problem(
    acme: httpx.Client, other: httpx.Client
) -> None:
    def ask(client: httpx.Client, *names: str) -> httpx.Response:
        return client.get("/v1/events", params={"session": names}, headers=ACCEPT)

    problem(ask(acme), 422)
    problem(ask(acme, "case-7", "case-7"), 422)
    problem(ask(acme, *(f"s{number}" for number in range(51))), 422)
    problem(ask(acme, "case-7", "nowhere"), 404, "HW006")
    problem(ask(other, "case-7"), 404, "HW006")


def test_a_token_may_open_several_sessions_and_no_other(acme: httpx.Client, db: psycopg.Connection) -> None:
    made = acme.post("/v1/stream-tokens", json={"sessions": ["case-7", "case-8"]}).json()["token"]
    write(db, "case-8", "a")
    with client_for(str(acme.base_url), None) as nobody:
        params = {"session": ["case-7", "case-8"], "token": made}
        with nobody.stream("GET", "/v1/events", params=params, headers=ACCEPT) as response:
            assert ids(take(EventSource(response).iter_sse(), 1)) == ["case-8/1"]
        for part in ({"session": "case-8"}, {"session": ["case-8", "case-7"]}):
            with nobody.stream("GET", "/v1/events", params={**part, "token": made}, headers=ACCEPT) as response:
                assert ids(take(EventSource(response).iter_sse(), 1)) == ["case-8/1"]
        assert nobody.get("/v1/sessions/case-8/events", params={"token": made}).json()["last_seq"] == 1
        for names in (["case-9"], ["case-7", "case-9"], ["case-9", "case-7"]):
            problem(nobody.get("/v1/events", params={"session": names, "token": made}, headers=ACCEPT), 403)
        problem(nobody.get("/v1/sessions/case-9/events", params={"token": made}), 403)
    problem(acme.post("/v1/stream-tokens", json={}), 422)
    problem(acme.post("/v1/stream-tokens", json={"session": "case-7", "sessions": ["case-8"]}), 422)


def test_a_token_is_made_only_for_sessions_that_are_all_there_and_one_s_own(
    acme: httpx.Client, other: httpx.Client
) -> None:
    other.post("/v1/sessions", json={"id": "theirs"})
    for names in (["case-7", "nowhere"], ["nowhere", "case-7"], ["case-7", "theirs"]):
        problem(acme.post("/v1/stream-tokens", json={"sessions": names}), 404, "HW006")
    for names in ([], [""], [f"s{number}" for number in range(51)]):
        problem(acme.post("/v1/stream-tokens", json={"sessions": names}), 422)


def test_a_stream_of_some_types_passes_over_the_others(acme: httpx.Client) -> None:
    append(acme, "a", "b", "c", "a")
    with stream(acme, type=["a", "c"]) as events:
        assert numbers(take(events, 3)) == [1, 3, 4]
        append(acme, "b", "c")
        assert numbers(take(events, 1)) == [6]


def test_a_consumer_gets_again_what_it_has_not_acknowledged(acme: httpx.Client) -> None:
    append(acme, *"abcde")
    acme.put("/v1/sessions/case-7/consumers/mailer", json={})
    with stream(acme, consumer="mailer") as events:
        seen = take(events, 4)
    acme.post("/v1/sessions/case-7/consumers/mailer/ack", json={"sequence": 2})
    with stream(acme, consumer="mailer", last_id=seen[-1].id) as events:
        assert numbers(take(events, 3)) == [3, 4, 5]
    problem(acme.get("/v1/sessions/case-7/events", params={"consumer": "nobody"}, headers=ACCEPT), 404, "HW023")


@pytest.fixture
def paths(db: psycopg.Connection) -> list[str]:
    """Of streams of a session, of several, of a run."""
    row = db.execute("select run_id from enqueue_run('acme', 'invoice.send')").fetchone()
    assert row is not None
    return ["/v1/sessions/case-7/events", "/v1/events?session=case-7&session=case-8", f"/v1/runs/{row[0]}/events"]


def test_head_tells_what_a_get_would_begin_with(acme: httpx.Client, paths: list[str]) -> None:
    for path in paths:
        told = acme.head(path, headers=ACCEPT)
        assert (told.status_code, told.content) == (200, b"")
        with acme.stream("GET", path, headers=ACCEPT) as response:
            for header in ("content-type", "vary", "cache-control", "x-accel-buffering"):
                assert told.headers[header] == response.headers[header]
    for path in (paths[0], paths[2]):
        assert acme.head(path).headers["content-type"] == acme.get(path).headers["content-type"]


def test_head_is_refused_where_a_get_would_be(acme: httpx.Client, other: httpx.Client, paths: list[str]) -> None:
    made = acme.post("/v1/stream-tokens", json={"session": "case-9"}).json()["token"]
    with client_for(str(acme.base_url), None) as nobody:
        for path in paths:
            assert nobody.head(path, headers=ACCEPT).status_code == 401
            assert nobody.head(path, params={**httpx.URL(path).params, "token": made}).status_code == 403
            assert other.head(path, headers=ACCEPT).status_code == 404
    for path, status in {
        "/v1/sessions/nowhere/events": 404,
        "/v1/events?session=case-7&session=nowhere": 404,
        "/v1/runs/12/events": 404,
        "/v1/events": 422,
        "/v1/events?session=case-7&session=case-7": 422,
    }.items():
        assert acme.get(path, headers=ACCEPT).status_code == status
        assert acme.head(path, headers=ACCEPT).status_code == status


def test_a_marker_tells_how_far_a_filtered_stream_is_and_resumes_it_there(
    acme: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "TURN_SECONDS", 0.01)
    with stream(acme, type="wanted") as events:
        begun = next(events).id
        append(acme, *"abc")
        marker = next(event for event in events if event.id != begun)
        assert (marker.event, marker.data) == ("message", "")
    append(acme, "d")
    with stream(acme, last_id=marker.id) as events:
        assert numbers(take(events, 1)) == [4]


@pytest.mark.parametrize("limit", ["process", "tenant", "key"])
def test_beyond_a_limit_an_event_source_is_sent_away_to_come_back_and_others_get_a_status(
    database_url: str, acme_key: str, limit: str
) -> None:
    with (
        api_thread(database_url, **{f"streams_per_{limit}": 2}) as url,
        client_for(url, acme_key) as client,
        ExitStack() as stack,
    ):
        held = [stack.enter_context(ExitStack()) for _ in range(2)]
        open_streams = [one.enter_context(stream(client)) for one in held]
        for events in open_streams:
            next(events)
        refused = client.get("/v1/sessions/case-7/events", headers=ACCEPT)
        problem(refused, 503)
        assert 5 <= int(refused.headers["retry-after"]) <= 15
        with client.stream("GET", "/v1/sessions/case-7/events", headers=AS_EVENT_SOURCE) as response:
            assert response.status_code == 200
            [only] = EventSource(response).iter_sse()
        assert only.retry is not None
        assert 5_000 <= only.retry <= 15_000
        metrics = client.get("/metrics").text
        assert f'howdah_streams_refused_total{{limit="{limit}"}} 2.0' in metrics
        assert "howdah_streams 2.0" in metrics
        # A place that is left is free.
        held[0].close()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with client.stream("GET", "/v1/sessions/case-7/events", headers=ACCEPT) as response:
                if response.status_code == 200:
                    return
            time.sleep(0.05)
    raise AssertionError("the place of a client that left was never free")


@contextmanager
def database_away(db: psycopg.Connection, databases: Databases) -> Iterator[None]:
    """Nobody else gets in meanwhile, and who is in is cut off."""
    name = Identifier(db.info.dbname)
    with psycopg.connect(databases.url("postgres"), autocommit=True) as elsewhere:
        elsewhere.execute(SQL("alter database {} allow_connections false").format(name))
        try:
            db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
            yield
        finally:
            elsewhere.execute(SQL("alter database {} allow_connections true").format(name))


def test_while_the_database_is_away_new_streams_are_sent_away_and_open_ones_kept_alive(
    database_url: str, acme_key: str, db: psycopg.Connection, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "BEGIN_SECONDS", 0.2)
    monkeypatch.setattr(rounds, "TURN_SECONDS", 0.01)
    path = "/v1/sessions/case-7/events"
    with (
        api_thread(database_url, streams_per_process=2) as url,
        client_for(url, acme_key) as client,
        client.stream("GET", path, headers=ACCEPT) as opened,
    ):
        lines = opened.iter_lines()
        assert next(lines).startswith("id: ")
        with database_away(db, databases):
            for _ in range(3):  # Whoever is sent away leaves its place.
                with client.stream("GET", path, headers=AS_EVENT_SOURCE) as response:
                    assert response.status_code == 200
                    [only] = EventSource(response).iter_sse()
                assert only.retry is not None
                assert 5_000 <= only.retry <= 15_000
                refused = client.get(path, headers=ACCEPT)
                problem(refused, 503)
                assert 5 <= int(refused.headers["retry-after"]) <= 15
            began = time.monotonic()
            # A look at the log waits for a connection all the while, half a minute each.
            assert len(list(islice((line for line in lines if line.startswith(":")), 20))) == 20
            assert time.monotonic() - began < 10
            write(db, "case-7", "a")
        assert any('"sequence"' in line for line in lines)


def test_a_stream_that_is_refused_for_another_reason_takes_no_place(database_url: str, acme_key: str) -> None:
    with api_thread(database_url, streams_per_key=1) as url, client_for(url, acme_key) as client:
        for _ in range(3):
            problem(client.get("/v1/sessions/nowhere/events", headers=ACCEPT), 404, "HW006")
        client.post("/v1/sessions/case-7/close")
        for _ in range(3):
            assert client.get("/v1/sessions/case-7/events", headers=ACCEPT).status_code == 204
        with stream(client, "/v1/sessions/case-8/events") as events:
            next(events)


def test_many_streams_that_end_with_their_process_come_back_over_a_spread(database_url: str, acme_key: str) -> None:
    with api_process(database_url) as api, client_for(api.url, acme_key) as client, ExitStack() as stack:
        streams = [stack.enter_context(stream(client)) for _ in range(20)]
        for events in streams:
            next(events)
        api.process.terminate()
        told = [event.retry for events in streams for event in events]
        assert len(told) == 20
        assert len(set(told)) > 5
        api.process.wait(PATIENCE)


@pytest.mark.parametrize("at_a_time", [0, 1])
def test_a_client_that_reads_nothing_or_a_byte_at_a_time_is_let_go_and_misses_nothing(
    database_url: str, acme_key: str, db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    monkeypatch.setattr(rounds, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(rounds, "SLOW_SECONDS", 0.2)
    with api_thread(database_url) as url, client_for(url, acme_key) as client, socket.socket() as deaf:
        host, port = url.removeprefix("http://").split(":")
        deaf.connect((host, int(port)))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        deaf.sendall(
            f"GET /v1/sessions/case-7/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {acme_key}\r\n\r\n".encode()
        )
        with client.stream("GET", "/v1/sessions/case-7/events", headers=ACCEPT) as response:
            arriving = response.iter_raw()
            received = bytearray(next(arriving))
            db.execute(
                "select append_events(array_fill('acme'::text, '{400}'), array_fill('case-7'::text, '{400}'),"
                " array_fill('large'::text, '{400}'), array_fill(to_json(repeat('x', 20000))::text, '{400}'))"
            )
            while f'"sequence":"{400:020}"'.encode() not in received[-40_000:]:
                received += next(arriving)
        assert sequences(received) == list(range(1, 401))
        deaf.settimeout(PATIENCE)
        received = bytearray()
        deadline = time.monotonic() + PATIENCE
        while "howdah_streams_slow_total 1.0" not in client.get("/metrics").text:
            assert time.monotonic() < deadline
            received += deaf.recv(at_a_time)
            time.sleep(0.05)
        # Should it read on after all, it gets what was on its way, in order, and then the reason.
        while b"event: howdah.slow" not in received[-40_000:]:
            received += deaf.recv(1 << 20)
        found = sequences(received)
        assert found == list(range(1, len(found) + 1))
        assert len(found) < 400
        last_id = bytes(received).rpartition(b"\nid: ")[2].partition(b"\n")[0].decode()
        with stream(client, last_id=last_id) as events:
            assert numbers(take(events, 400 - len(found))) == list(range(len(found) + 1, 401))


def sequences(stream: bytes) -> list[int]:
    """Numbers of the events in a stream's bytes."""
    return [int(part[:20]) for part in bytes(stream).split(b'"sequence":"')[1:]]


def test_a_client_that_reads_a_little_at_a_time_misses_nothing(
    acme: httpx.Client, acme_key: str, db: psycopg.Connection
) -> None:
    host, port = acme.base_url.host, acme.base_url.port
    assert port is not None
    with socket.create_connection((host, port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.settimeout(PATIENCE)
        slow.sendall(
            f"GET /v1/sessions/case-7/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
            f"Authorization: Bearer {acme_key}\r\n\r\n".encode()
        )
        received = bytearray()
        while b"retry: " not in received:
            received += slow.recv(1)
        db.execute(
            "select append_events(array_fill('acme'::text, '{300}'), array_fill('case-7'::text, '{300}'),"
            " array_fill('large'::text, '{300}'), array_fill(to_json(repeat('x', 5000))::text, '{300}'))"
        )
        while f'"sequence":"{300:020}"'.encode() not in received[-12_000:]:
            received += slow.recv(997)
    assert sequences(received) == list(range(1, 301))
