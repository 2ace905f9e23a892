"""The page at `/` in a real browser: runs started, watched, answered; events seen once; nothing of them executed."""

from __future__ import annotations

from pathlib import Path

import httpx
import psycopg
import pytest
from selenium import webdriver

from howdah.app.processes import Process
from tests.app.api_servers import api_process, client_for
from tests.app.conftest import issue
from tests.app.dashboard.conftest import Page, append

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("chromedriver")]

NUMBERS = ".events .seq"
# Rows of a list, at most, whatever comes.
BOUND = 400


def start(acme: httpx.Client, task: str, **args: object) -> str:
    created = acme.post("/v1/runs", json={"task": task, "args": args})
    assert created.status_code == 201, created.text
    run_id: str = created.json()["id"]
    return run_id


def test_a_wrong_key_is_told_and_a_right_one_opens(page: Page, acme_key: str) -> None:
    page.sign_in("hwd_0123456789abcdef_" + "0" * 64)
    page.shows(".sign-in .error", "not valid")
    page.write("key", "two words")
    page.press("Sign in")
    page.shows(".sign-in .error", "no spaces")
    page.write("key", acme_key)
    page.press("Sign in")
    page.shows("h1", "Start a run")
    page.shows("#connection", "live")
    assert acme_key not in page.driver.execute_script("return document.cookie + JSON.stringify(localStorage)")
    page.press("Sign out")
    page.until(lambda: page.driver.execute_script("return sessionStorage.length") == 0)
    page.open("#/runs")
    page.field("key")


def test_a_run_is_started_and_its_steps_come_as_they_finish(
    page: Page, acme_key: str, acme: httpx.Client, worker: Process, tmp_path: Path
) -> None:
    page.sign_in(acme_key)
    page.until(lambda: "book.review" in page.texts("#task option"))
    page.driver.execute_script(
        "const task = document.getElementById('task'); task.value = 'gate.pass';task.dispatchEvent(new Event('change'))"
    )
    page.shows(".start", "on queue books")
    assert page.field("args").get_property("value") == '{\n  "gates": 0,\n  "folder": ""\n}'
    page.write("args", '{"folder": 7}')
    page.press("Start")
    page.shows("#args-error", "folder: 7 is not of type 'string'")
    page.shows("#args-error", "'gates' is a required property")
    page.write("args", '{"folder": ')
    page.press("Start")
    page.shows("#args-error", "no JSON")
    page.write("args", f'{{"gates": 3, "folder": "{tmp_path}"}}')
    page.write("session", "tour")
    page.press("Start")
    page.shows(".detail-head", "running")
    for number in (1, 2, 3):
        assert len(page.texts(".steps li")) < number
        (tmp_path / str(number)).touch()
        page.shows(".steps", f"gate {number}")
        page.shows(".progress .note", f"{round(number * 100 / 3)} % · through gate {number}")
    page.shows(".detail-head", "succeeded")
    page.shows(".result", "3")
    page.shows(".rows a[aria-current]", "gate.pass")
    (run,) = acme.get("/v1/runs").json()["items"]
    assert run["session"] == "tour"
    outputs = {step["step"]: step["output"] for step in acme.get(f"/v1/runs/{run['id']}/steps").json()["items"]}
    assert page.texts(".steps .step-name") == ["gate 1", "gate 2", "gate 3"]
    assert page.texts(".steps .json") == []
    page.driver.execute_script("document.querySelectorAll('.steps details')[1].open = true")
    page.until(lambda: page.texts(".steps .json") == [str(outputs["gate 2"])])


def test_a_question_is_answered_and_children_are_shown(
    page: Page, acme_key: str, acme: httpx.Client, worker: Process
) -> None:
    run_id = start(acme, "book.review", title="Moby-Dick", pages=3)
    page.sign_in(acme_key)
    page.go(f"#/runs/{run_id}")
    page.shows(".waits", "Waits for approval")
    page.shows(".tree", "book.judge")
    assert len(page.texts(".tree li")) == 3
    page.shows(".rows", "book.review")
    assert "book.judge" not in page.text(".rows")
    page.driver.execute_script(
        "const asked = document.querySelector('[aria-label=Children]'); asked.value = '';"
        "asked.dispatchEvent(new Event('change'))"
    )
    page.shows(".rows", "book.judge")
    page.press("approve")
    page.shows(".detail-head", "succeeded")
    page.shows(".result", "approve, 3 points")
    page.shows(".events", "found a typo")


def test_a_failure_is_shown_with_its_traceback_and_can_be_requeued(
    page: Page, acme_key: str, acme: httpx.Client, worker: Process
) -> None:
    run_id = start(acme, "book.fail", size="large")
    page.sign_in(acme_key)
    page.go(f"#/runs/{run_id}")
    page.shows(".failure", "NonRetryableError: the large book is lost")
    page.shows(".traceback", "workflows.py")
    page.press("Requeue")
    page.until(lambda: acme.get(f"/v1/runs/{run_id}").json()["attempt"] == 2)
    page.shows(".detail-head", "failed")


def test_a_run_that_waits_for_its_turn_says_why_and_can_be_cancelled(
    page: Page, acme_key: str, acme: httpx.Client, db: psycopg.Connection
) -> None:
    db.execute("select register_tasks(array['lonely'], array['task'], array['nobody'], array['{}'], array[''])")
    run_id = start(acme, "lonely")
    page.sign_in(acme_key)
    page.go(f"#/runs/{run_id}")
    page.shows(".waits", "worker")
    page.press("Cancel")
    page.shows(".detail-head", "cancelled")


def test_a_sessions_events_come_live_until_it_is_closed(
    page: Page, acme_key: str, acme: httpx.Client, db: psycopg.Connection
) -> None:
    append(db, "case-7", 2)
    page.sign_in(acme_key)
    page.go("#/sessions")
    page.shows(".rows", "case-7")
    page.go("#/sessions/case-7")
    page.until(lambda: page.texts(NUMBERS) == ["1", "2"])
    long = {"text": "long " * 100}
    acme.post("/v1/sessions/case-7/events", json={"type": "note.added", "data": long})
    page.shows(".events .type", "note.added")
    assert page.texts(".events details pre") == []
    page.driver.execute_script("document.querySelector('.events summary').click()")
    page.shows(".events details pre", "long long")
    acme.post("/v1/sessions/case-7/close")
    page.shows(".foot", "closed")
    assert page.texts(NUMBERS) == ["1", "2", "3"]


@pytest.mark.long
def test_a_server_that_restarts_costs_no_event_and_shows_none_twice(
    driver: webdriver.Chrome, database_url: str, db: psycopg.Connection, acme_key: str
) -> None:
    # The token of the stream is over by the time the server is back: the page has to ask for another.
    short = {"HOWDAH_STREAM_TOKEN_SECONDS": "1"}
    with api_process(database_url, environment=short) as api:
        page = Page(driver, api.url)
        append(db, "case-7", 3)
        page.sign_in(acme_key)
        page.go("#/sessions/case-7")
        page.until(lambda: page.texts(NUMBERS) == ["1", "2", "3"])
        append(db, "case-7", 2, first=4)
        page.until(lambda: len(page.texts(NUMBERS)) == 5)
        api.kill()
        page.shows("#connection", "reconnecting")
        append(db, "case-7", 20, first=6)
    with api_process(database_url, int(api.url.rpartition(":")[2]), short):
        page.until(lambda: len(page.texts(NUMBERS)) >= 25)
        page.shows("#connection", "live")
        append(db, "case-7", 5, first=26)
        page.until(lambda: len(page.texts(NUMBERS)) >= 30)
        assert page.texts(NUMBERS) == [str(number) for number in range(1, 31)]
        assert page.texts(".event-note") == []
        driver.get("about:blank")


def test_what_an_event_or_a_run_says_is_text_and_never_markup(
    page: Page, acme_key: str, acme: httpx.Client, db: psycopg.Connection
) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    acme.post("/v1/sessions", json={"id": "case-7"})
    acme.post("/v1/sessions/case-7/events", json={"type": evil, "data": {evil: evil}})
    acme.post("/v1/sessions/case-7/events", json={"type": "note.added", "data": [evil] * 10})
    db.execute(
        "select register_tasks(array[%s], array['task'], array['q'], array[%s], array[%s])",
        [evil, '{"properties": {"<b>x": {"description": "<img src=x onerror=alert(1)>"}}}', evil],
    )
    page.sign_in(acme_key)
    page.shows(".hints", "<img src=x onerror=alert(1)>")
    page.shows(".start", evil)
    page.driver.get_log("browser")
    page.go("#/sessions/case-7")
    page.shows(".events .type", evil)
    page.driver.execute_script("for (const each of document.querySelectorAll('.events summary')) each.click()")
    page.shows(".events pre", "<img src=x onerror")
    page.go(f"#/runs/{start(acme, evil)}")
    page.shows(".detail-head h1", evil)
    assert page.driver.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    assert "owned" not in page.driver.title.split(evil)
    assert page.complaints() == []


def test_ten_thousand_events_leave_the_page_small_and_can_all_be_reached(
    page: Page, acme_key: str, db: psycopg.Connection
) -> None:
    append(db, "case-7", 5_000)
    page.sign_in(acme_key)
    page.go("#/sessions/case-7")
    page.shows(".top", "4,800 earlier events, not shown")
    page.until(lambda: page.texts(NUMBERS)[-1:] == ["5000"])
    page.driver.execute_script(
        "window.most = 0; new MutationObserver(() => {"
        "most = Math.max(most, document.querySelectorAll('.events li').length) })"
        ".observe(document.querySelector('.events'), {childList: true})"
    )
    for first in range(5_001, 10_001, 500):
        append(db, "case-7", 500, first)
    page.until(lambda: page.texts(NUMBERS)[-1:] == ["10000"])
    shown = [int(number) for number in page.texts(NUMBERS)]
    assert shown == list(range(10_001 - len(shown), 10_001))
    assert page.driver.execute_script("return most") <= BOUND
    page.shows(".top", f"{10_000 - len(shown):,} earlier events, not shown")
    # Back, page by page, beyond what is kept; and to the newest again.
    for _ in range(3):
        before = page.texts(NUMBERS)[0]
        page.press("Show 100 earlier")
        page.until(lambda before=before: page.texts(NUMBERS)[0] == str(int(before) - 100))
    assert len(page.texts(NUMBERS)) <= BOUND
    page.press("↓ to the newest")
    page.until(lambda: page.texts(NUMBERS)[-1:] == ["10000"])
    assert len(page.texts("*")) < 20 * BOUND


def test_an_administrator_says_for_which_tenant(page: Page, acme_key: str, db: psycopg.Connection) -> None:
    page.sign_in(issue(db, None))
    page.shows(".sign-in .error", "for which tenant")
    page.write("tenant", "acme")
    page.press("Sign in")
    page.shows("h1", "Start a run")


def test_a_key_that_is_revoked_meanwhile_ends_the_visit(
    page: Page, acme_key: str, db: psycopg.Connection, api_url: str
) -> None:
    page.sign_in(acme_key)
    page.shows("#connection", "live")
    db.execute("update api_key set revoked_at = now()")
    page.shows(".sign-in .error", "sign in again")
    with client_for(api_url, acme_key) as client:
        assert client.get("/v1/runs").status_code == 401
