"""Stream tokens: what a browser's EventSource may do with one, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from howdah.app.api import stream_tokens
from tests.app.api.test_events import ACCEPT, EVENTS, numbers, stream, take
from tests.app.api.test_sessions import problem
from tests.app.api_servers import api_thread, client_for


@pytest.fixture(autouse=True)
def session(db: psycopg.Connection, acme_key: str) -> str:
    for name in ("case-7", "case-8"):
        db.execute("select create_session('acme', %s)", [name])
    return "case-7"


@pytest.fixture
def nobody(api_url: str) -> Iterator[httpx.Client]:
    """A client without a key."""
    with client_for(api_url, None) as client:
        yield client


def token(client: httpx.Client, session: str = "case-7", ttl: int | None = None) -> str:
    response = client.post("/v1/stream-tokens", json={"session": session, "ttl": ttl})
    assert response.status_code == 201, response.text
    made: str = response.json()["token"]
    return made


def test_a_token_reads_its_session_and_a_key_is_not_needed(acme: httpx.Client, nobody: httpx.Client) -> None:
    acme.post(EVENTS, json={"type": "a"})
    made = token(acme)
    with stream(nobody, token=made) as events:
        assert numbers(take(events, 1)) == [1]
    assert nobody.get(EVENTS, params={"token": made}).json()["last_seq"] == 1


def test_a_token_opens_nothing_else(acme: httpx.Client, nobody: httpx.Client, other: httpx.Client) -> None:
    made = token(acme)
    problem(nobody.get("/v1/sessions/case-8/events", params={"token": made}), 403)
    problem(nobody.get("/v1/sessions/case-7", params={"token": made}), 401)
    problem(nobody.post(EVENTS, params={"token": made}, json={"type": "a"}), 401)
    problem(nobody.get(EVENTS, headers={"Authorization": f"Bearer {made}"}), 401)
    problem(nobody.post("/v1/stream-tokens", params={"token": made}, json={"session": "case-7"}), 401)
    # Another tenant's session of the same name is another session.
    other.post("/v1/sessions", json={"id": "case-7"})
    other.post(EVENTS, json={"type": "secret"})
    assert nobody.get(EVENTS, params={"token": made}).json()["events"] == []


def test_a_forged_token_opens_nothing(acme: httpx.Client, nobody: httpx.Client) -> None:
    made = token(acme)
    body, mac = made.split(".")
    other_body, _ = token(acme, "case-8").split(".")
    for forged in ("", "x", "hst_", made[:-1], made + "A", f"{body}.", f"{other_body}.{mac}", made.upper(), "é.é"):
        problem(nobody.get(EVENTS, params={"token": forged}), 401)
        problem(nobody.get(EVENTS, params={"token": forged}, headers=ACCEPT), 401)


def test_a_token_ends_when_it_says(acme: httpx.Client, nobody: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made = token(acme, ttl=60)
    now = time.time()
    monkeypatch.setattr(stream_tokens.time, "time", lambda: now + 55)
    assert nobody.get(EVENTS, params={"token": made}).status_code == 200
    monkeypatch.setattr(stream_tokens.time, "time", lambda: now + 61)
    assert "ended" in problem(nobody.get(EVENTS, params={"token": made}), 401)


def test_a_token_of_one_process_is_good_in_another(acme: httpx.Client, database_url: str) -> None:
    made = token(acme)
    with api_thread(database_url) as url, client_for(url, None) as elsewhere:
        assert elsewhere.get(EVENTS, params={"token": made}).status_code == 200


def test_a_secret_of_the_installation_s_own_signs_instead(acme: httpx.Client, acme_key: str, database_url: str) -> None:
    with api_thread(database_url, stream_token_secret="correct horse battery staple") as url:
        with client_for(url, acme_key) as client:
            made = token(client)
        with client_for(url, None) as nobody:
            assert nobody.get(EVENTS, params={"token": made}).status_code == 200
            problem(nobody.get(EVENTS, params={"token": token(acme)}), 401)


def test_a_token_for_what_is_not_there_or_too_long_is_refused(acme: httpx.Client, other: httpx.Client) -> None:
    problem(acme.post("/v1/stream-tokens", json={"session": "nowhere"}), 404, "HW006")
    problem(other.post("/v1/stream-tokens", json={"session": "case-7"}), 404, "HW006")
    for ttl in (0, -1, 3_601, 1.5, "60"):
        problem(acme.post("/v1/stream-tokens", json={"session": "case-7", "ttl": ttl}), 422)


def test_a_token_reads_the_stream_of_a_run(acme: httpx.Client, nobody: httpx.Client, db: psycopg.Connection) -> None:
    row = db.execute("select run_id from enqueue_run('acme', 'invoice.send')").fetchone()
    assert row is not None
    made = token(acme, f"run:{row[0]}")
    assert nobody.get(f"/v1/runs/{row[0]}/events", params={"token": made}).status_code == 200
    assert nobody.get(f"/v1/sessions/run:{row[0]}/events", params={"token": made}).status_code == 200
    problem(nobody.get(f"/v1/runs/{row[0]}/events", params={"token": token(acme)}), 403)
