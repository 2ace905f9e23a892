"""The page as a person has it: Chromium, driven by selenium, on a real API with a real worker behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from howdah.app.processes import Process
from tests.app.api_servers import PATIENCE

ROOT = Path(__file__).parents[3]
# Root needs no-sandbox; the rest keeps the browser from looking for its maker.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Page:
    """The page in a browser, as one who looks at it would tell of it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, place: str = "") -> None:
        self.driver.get(f"{self.url}/{place}")

    def sign_in(self, key: str) -> None:
        self.open()
        self.field("key").send_keys(key)
        self.press("Sign in")

    def go(self, place: str) -> None:
        self.driver.execute_script("location.hash = arguments[0]", place)

    def field(self, name: str) -> WebElement:
        return self.until(lambda: self.driver.find_element(By.ID, name))

    def write(self, name: str, text: str) -> None:
        field = self.field(name)
        field.clear()
        field.send_keys(text)

    def press(self, name: str) -> None:
        """Click the visible button of this name, once it is there."""

        def click() -> bool:
            buttons = self.driver.find_elements(By.TAG_NAME, "button")
            named = [button for button in buttons if button.is_displayed() and button.text == name]
            if named:
                named[0].click()
            return bool(named)

        self.until(click, f"no button {name!r}")

    def texts(self, css: str) -> list[str]:
        """The text of each element that this selects."""
        found: list[str] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)", css
        )
        return found

    def text(self, css: str) -> str:
        return "\n".join(self.texts(css))

    def until(self, look: Callable[[], Any], why: str | None = None) -> Any:
        """What `look` returns once it is true; a test that waits for what never comes fails with what is shown."""
        deadline = time.monotonic() + PATIENCE
        problem: Exception | None = None
        while time.monotonic() < deadline:
            try:
                if found := look():
                    return found
            except Exception as error:  # the element is not there yet, or was replaced meanwhile
                problem = error
            time.sleep(0.05)
        raise AssertionError(f"{why or problem or 'it did not come'}; shown: {self.text('main')[:3000]}")

    def shows(self, css: str, words: str) -> None:
        """Wait until an element says these words."""
        self.until(lambda: words in self.text(css), f"{css} does not say {words!r}")

    def complaints(self) -> list[str]:
        """What the browser's console has to complain about, such as what the policy forbade."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests of a process: it takes seconds to start."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield browser
    browser.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, api_url: str) -> Iterator[Page]:
    """The page of this test's API, nobody signed in."""
    yield Page(driver, api_url)
    driver.get("about:blank")


@pytest.fixture
def worker(database_url: str, acme: httpx.Client, tmp_path: Path) -> Iterator[Process]:
    """A worker process that runs `workflows.py`; its tasks are registered."""
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "howdah.app.cli", "worker", "--app", "tests.app.dashboard.workflows:app"]
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    process = Process("worker", popen, log)
    deadline = time.monotonic() + PATIENCE
    while not acme.get("/v1/tasks").json()["items"]:
        assert process.alive, process.tail()
        assert time.monotonic() < deadline, process.tail()
        time.sleep(0.05)
    yield process
    process.kill()


def append(db: psycopg.Connection, session: str, count: int, first: int = 1) -> None:
    """Append events of type `count.up` to a session of acme, their data {"n": number}."""
    db.execute("select create_session('acme', %s)", [session])
    data = [f'{{"n": {number}}}' for number in range(first, first + count)]
    columns = [["acme"] * count, [session] * count, ["count.up"] * count, data]
    db.execute("select from append_events(%s, %s, %s, %s)", columns)
