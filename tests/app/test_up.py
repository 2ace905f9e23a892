"""`howdah up`, `review` and `demo` as a person runs them: real processes, a real terminal's signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from howdah.app import embedded
from tests.jobs.documents.test_extract import pdf

SECONDS = 60
HOWDAH = [sys.executable, "-m", "howdah.app.cli"]


def environment(home: Path, database_url: str | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return {**kept, "HOWDAH_HOME": str(home), **({"DATABASE_URL": database_url} if database_url else {})}


def start_up(home: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    """A running `howdah up`: the process, its address and key, as it prints them."""
    log = home.parent / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*HOWDAH, "up"], env=environment(home), stdout=output, stderr=output)
    deadline = time.monotonic() + SECONDS
    while "Ctrl-C stops everything" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    text = log.read_text()
    address, key = re.search(r"http://[\d.]+:\d+", text), re.search(r"hwd_\w+", text)
    assert address
    assert key
    return process, address[0], key[0]


def test_up_stops_cleanly_and_finds_its_data_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ids = []
    keys = []
    try:
        for _ in range(2):
            process, url, key = start_up(home)
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
                created = client.post("/v1/runs", json={"task": "examples.hello", "args": {"name": "you"}}).json()
                finished = client.get(f"/v1/runs/{created['id']}", params={"wait": 30}).json()
                assert finished["output"] == "HELLO, YOU!"
                ids.append(created["id"])
                keys.append(key)
                listed = [run["id"] for run in client.get("/v1/runs").json()["items"]]
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
            assert embedded.find_running(home / "postgres") is None
        assert set(ids) <= set(listed)
        assert keys[0] == keys[1]
    finally:
        embedded.remove(home / "postgres")


def test_review_reads_what_it_can_refuses_the_rest_and_goes_on(tmp_path: Path, empty_database_url: str) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "lease.pdf").write_bytes(pdf("The tenant shall keep the garden in order."))
    (papers / "rules.html").write_text("<html><body><p>You must not smoke in the house.</p></body></html>")
    (papers / "notes.md").write_text("# Notes\n\nThe landlord must repair the roof.\n")
    (papers / "empty.txt").write_bytes(b"")
    (papers / "broken.pdf").write_bytes(b"this is no pdf")
    (papers / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (papers / "huge.txt").write_bytes(b"word " * 10_000_000)
    done = subprocess.run(
        [*HOWDAH, "review", str(papers), "--ask", "What must the tenant do?", "--out", str(tmp_path / "report")],
        env=environment(tmp_path / "home", empty_database_url),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 documents reviewed" in done.stdout
    for name, reason in (
        ("empty.txt", "0 bytes"),
        ("broken.pdf", "a PDF that is none"),
        ("image.png", "PNG"),
        ("huge.txt", "33,554,432"),
    ):
        assert re.search(rf"✗ .*{name}: .*{reason}", done.stdout), f"{name} is not refused with a sentence"
    assert "shall keep the garden" in (tmp_path / "report" / "report.md").read_text()
    assert "✗ " not in done.stdout.split("runs ended", 1)[1]


@pytest.mark.long
def test_the_demo_keeps_its_promises_while_it_kills_processes(tmp_path: Path, empty_database_url: str) -> None:
    done = subprocess.run(
        [*HOWDAH, "demo", "--out", str(tmp_path / "report")],
        env=environment(tmp_path / "home", empty_database_url),
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        check=False,
    )
    lines = done.stdout.splitlines()
    # How soon the rescue came is told to whoever watches the demo; a test's machine may be busy with other things.
    timed = [line for line in lines if "went on elsewhere" in line]
    assert len(timed) == 1, done.stdout[-4000:] + done.stderr[-2000:]
    assert [line for line in lines if line.startswith("✗ ") and line not in timed] == []
    assert len([line for line in lines if line.startswith("✓ ") and line not in timed]) == 5
    assert done.stdout.count("⚡ SIGKILL") == 2
    assert (tmp_path / "report" / "report.json").stat().st_size > 10_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_ended_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*HOWDAH, "demo"], env=environment(home), cwd=tmp_path, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + SECONDS
        while "two API processes" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(SECONDS) == 130
        assert "Traceback" not in log.read_text()
        assert embedded.find_running(home / "postgres") is None
        for child in (home / "logs").glob("api-*.log"):
            assert "Finished server process" in child.read_text()
    finally:
        embedded.remove(home / "postgres")
