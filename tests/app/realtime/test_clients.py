"""Clients as people have them, each as it comes: none loses or repeats an event when the server restarts meanwhile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from httpx_sse import connect_sse

from tests.app.api_servers import PATIENCE, ApiProcess, api_process

# The last that runs on Node.js 18; on 20, 5.1 opened no stream again.
EVENTSOURCE = "eventsource@3.0.7"
# In the virtual environment, so that `make clean` takes it along.
NODE_FOLDER = Path(sys.prefix) / "eventsource"
SEQUENCE = re.compile(r'"sequence":"(\d+)"')
ID = re.compile(r"^id: ?(.+)$", re.MULTILINE)

# What has been read, as it stands.
Seen = Callable[[], list[int]]


def path(session: str = "case-7") -> str:
    return f"/v1/sessions/{session}/events"


def append(db: psycopg.Connection, count: int) -> None:
    for _ in range(count):
        db.execute("select append_event('acme', 'case-7', 'note.added')")


def wait_for(seen: Seen, last: int) -> None:
    """Wait until event `last` has been read, and a moment longer for what would come twice."""
    deadline = time.monotonic() + PATIENCE
    while last not in seen() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    assert seen() == list(range(1, last + 1))


@contextmanager
def restarts(database_url: str, db: psycopg.Connection) -> Iterator[tuple[ApiProcess, Callable[[Seen], None]]]:
    """An API, and what happens to it while a client reads: it is killed, then told to stop; each time events pass."""
    db.execute("select create_session('acme', 'case-7')")
    with api_process(database_url) as first:
        port = urlsplit(first.url).port or 0

        def happen(seen: Seen) -> None:
            append(db, 5)
            wait_for(seen, 5)
            first.kill()
            append(db, 5)
            with api_process(database_url, port=port) as second:
                append(db, 5)
                wait_for(seen, 15)
                assert second.terminate() == 0
            append(db, 5)
            with api_process(database_url, port=port):
                append(db, 5)
                wait_for(seen, 25)

        yield first, happen


@contextmanager
def in_thread(read: Callable[[list[int], Event], None]) -> Iterator[Seen]:
    """A reader that is a loop of this process; it looks at the event to know when it is over."""
    seen, over = list[int](), Event()
    thread = Thread(target=read, args=(seen, over), daemon=True)
    thread.start()
    try:
        yield lambda: list(seen)
    finally:
        over.set()


def test_httpx_sse(database_url: str, db: psycopg.Connection, acme_key: str) -> None:
    with restarts(database_url, db) as (api, happen):

        def read(seen: list[int], over: Event) -> None:
            headers = {"Authorization": f"Bearer {acme_key}"}
            with httpx.Client(base_url=api.url, headers=headers, timeout=PATIENCE) as client:
                while not over.is_set():
                    try:
                        with connect_sse(client, "GET", path(), headers=headers) as stream:
                            for event in stream.iter_sse():
                                headers["Last-Event-ID"] = event.id
                                if event.data and event.event == "message":
                                    seen.append(int(event.json()["sequence"]))
                    except httpx.TransportError:
                        time.sleep(0.1)

        with in_thread(read) as seen:
            happen(seen)


@pytest.mark.needs("curl")
def test_curl(database_url: str, db: psycopg.Connection, acme_key: str) -> None:
    with restarts(database_url, db) as (api, happen):
        command = ["curl", "-sN", f"{api.url}{path()}", "-H", f"Authorization: Bearer {acme_key}"]
        command += ["-H", "Accept: text/event-stream"]

        def read(seen: list[int], over: Event) -> None:
            last: list[str] = []
            while not over.is_set():
                with subprocess.Popen([*command, *last], stdout=subprocess.PIPE, text=True) as curl:
                    assert curl.stdout is not None
                    for line in curl.stdout:
                        if found := ID.search(line):
                            identity = found[1]
                        elif found := SEQUENCE.search(line):
                            seen.append(int(found[1]))
                        elif line == "\n":  # The event is whole: only now it counts as seen.
                            last = ["-H", f"Last-Event-ID: {identity}"]
                        if over.is_set():
                            curl.kill()
                time.sleep(0.1)

        with in_thread(read) as seen:
            happen(seen)
            # It goes on to wait for events: one more lets it see that it is over.
            append(db, 1)


@pytest.fixture(scope="session")
def eventsource() -> Path:
    """npm's eventsource, installed once."""
    module = NODE_FOLDER / "node_modules" / "eventsource" / "dist" / "index.js"
    if not module.exists():
        NODE_FOLDER.mkdir(parents=True, exist_ok=True)
        npm = [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            str(NODE_FOLDER),
        ]
        subprocess.run([*npm, EVENTSOURCE], check=True, timeout=120)
    return module


@pytest.mark.needs("node")
@pytest.mark.needs("npm")
def test_eventsource_of_npm(database_url: str, db: psycopg.Connection, acme_key: str, eventsource: Path) -> None:
    with restarts(database_url, db) as (api, happen):
        script = Path(__file__).with_name("eventsource.mjs")
        command = ["node", str(script), str(eventsource), f"{api.url}{path()}", acme_key]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:

            def read(seen: list[int], _: Event) -> None:
                assert node.stdout is not None
                seen.extend(int(line) for line in node.stdout)

            with in_thread(read) as seen:
                happen(seen)
            node.kill()


@contextmanager
def browser() -> Iterator[Callable[[str, str, Any], Any]]:
    """Chromium by its WebDriver: ``command(method, path, body)`` answers the value."""
    driver = shutil.which("chromedriver") or ""
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = next(found[1] for line in process.stdout if (found := re.search(r"on port (\d+)\.", line)))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:

            def command(method: str, path: str, body: Any = None) -> Any:
                response = client.request(method, path, json=body)
                value = response.json()["value"]
                assert response.status_code == 200, value
                return value

            options = {"binary": shutil.which("chromium"), "args": ["--headless=new", "--no-sandbox", "--disable-gpu"]}
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            session = command("POST", "/session", wanted)["sessionId"]
            try:
                yield lambda method, path, body: command(method, f"/session/{session}{path}", body)
            finally:
                command("DELETE", f"/session/{session}")
                process.terminate()


READ_IN_PAGE = """
    window.seen = [];
    new EventSource(arguments[0]).onmessage = (event) => window.seen.push(Number(JSON.parse(event.data).sequence));
"""


@pytest.mark.needs("chromium")
@pytest.mark.needs("chromedriver")
@pytest.mark.long
def test_eventsource_of_chromium(database_url: str, db: psycopg.Connection, acme_key: str) -> None:
    with restarts(database_url, db) as (api, happen), browser() as command:
        headers = {"Authorization": f"Bearer {acme_key}"}
        asked = httpx.post(f"{api.url}/v1/stream-tokens", json={"session": "case-7"}, headers=headers, timeout=PATIENCE)
        stream = f"{path()}?token={json.loads(asked.text)['token']}"
        command("POST", "/url", {"url": f"{api.url}/health/live"})  # A page of the same origin.
        command("POST", "/execute/sync", {"script": READ_IN_PAGE, "args": [stream]})
        happen(lambda: command("POST", "/execute/sync", {"script": "return window.seen", "args": []}))
