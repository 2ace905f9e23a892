"""What a page's stream meets once in a while, and what a person then sees: each event once, or why it is not there."""

from __future__ import annotations

import httpx
import psycopg
import pytest
from selenium import webdriver

from tests.app.api_servers import api_process
from tests.app.dashboard.conftest import Page, append
from tests.app.dashboard.test_page import NUMBERS

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.needs("chromedriver")]

SESSION = "case-7"
NOTES = ".event-note"


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


def cut(db: psycopg.Connection) -> None:
    """Days pass, and retention takes all events that there are."""
    db.execute("select set_tenant_event_days('acme', 1)")
    db.execute("select set_config('howdah.now', (engine_now() + interval '3 days')::text, false)")
    db.execute("select cut_sessions(null)")


def watch(page: Page, key: str) -> None:
    """Sign in, and open the session."""
    page.sign_in(key)
    page.go(f"#/sessions/{SESSION}")


def hide(page: Page) -> None:
    """The person looks at another tab: the page leaves its stream."""
    page.driver.switch_to.new_window("tab")
    page.until(lambda: streams(page) == 0, "a hidden page holds its stream")


def show(page: Page) -> None:
    """The person comes back."""
    page.driver.close()
    page.driver.switch_to.window(page.driver.window_handles[0])


def streams(page: Page) -> float:
    """How many are open at this page's API."""
    metrics = httpx.get(f"{page.url}/metrics").text
    return float(next(line for line in metrics.splitlines() if line.startswith("howdah_streams ")).split()[1])


def test_what_retention_took_before_the_page_was_opened_is_told(
    page: Page, acme_key: str, db: psycopg.Connection
) -> None:
    append(db, SESSION, 20)
    cut(db)
    watch(page, acme_key)
    page.shows(".top", "Events 1 to 20 are not kept any more.")
    page.shows(".foot", "Nothing since.")
    append(db, SESSION, 3, first=21)
    page.until(lambda: page.texts(NUMBERS) == numbers(21, 23))
    assert page.text(".foot") == ""
    # There is nothing to be asked for.
    assert not page.driver.find_element("css selector", ".top button").is_displayed()
    assert page.texts(NOTES) == []


def test_what_retention_took_while_nobody_looked_is_told_in_its_place(
    page: Page, acme_key: str, db: psycopg.Connection
) -> None:
    append(db, SESSION, 5)
    watch(page, acme_key)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 5))
    hide(page)
    append(db, SESSION, 5, first=6)
    cut(db)
    show(page)
    page.shows(NOTES, "Events 6 to 10 are not kept any more.")
    # It is told once, however often the person goes and comes.
    hide(page)
    show(page)
    append(db, SESSION, 2, first=11)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 5) + numbers(11, 12))
    assert page.texts(".events > li")[5] == page.texts(NOTES)[0]
    assert len(page.texts(NOTES)) == 1


def test_earlier_events_that_were_taken_meanwhile_are_not_shown_twice(
    page: Page, acme_key: str, db: psycopg.Connection
) -> None:
    append(db, SESSION, 250)
    watch(page, acme_key)
    page.shows(".top", "50 earlier events, not shown.")
    page.until(lambda: page.texts(NUMBERS) == numbers(51, 250))
    cut(db)
    append(db, SESSION, 10, first=251)
    page.until(lambda: page.texts(NUMBERS) == numbers(51, 260))
    page.driver.execute_script("document.querySelector('.top button').click()")
    page.shows(".top", "Events 1 to 50 are not kept any more.")
    assert page.texts(NUMBERS) == numbers(51, 260)


@pytest.mark.long
def test_a_database_that_was_restored_from_before_is_shown_anew(
    driver: webdriver.Chrome, database_url: str, db: psycopg.Connection, acme_key: str
) -> None:
    with api_process(database_url) as api:
        page = Page(driver, api.url)
        append(db, SESSION, 10)
        watch(page, acme_key)
        page.until(lambda: page.texts(NUMBERS) == numbers(1, 10))
        api.kill()
        page.shows("#connection", "reconnecting")
        db.execute("delete from event where seq > 4")
        db.execute("update session set last_seq = 4")
        append(db, SESSION, 1, first=50)
    with api_process(database_url, int(api.url.rpartition(":")[2])):
        page.until(lambda: page.texts(NUMBERS) == numbers(1, 5))
        page.shows(NOTES, "does not know what was shown here")
        assert page.texts(".events .data")[-1] == '{"n":50}'
        append(db, SESSION, 2, first=6)
        page.until(lambda: page.texts(NUMBERS) == numbers(1, 7))
        assert len(page.texts(NOTES)) == 1
        driver.get("about:blank")


def test_a_hidden_page_holds_no_stream_and_catches_up_when_it_is_looked_at(
    page: Page, acme_key: str, db: psycopg.Connection
) -> None:
    append(db, SESSION, 3)
    watch(page, acme_key)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 3))
    assert streams(page) == 1
    hide(page)
    append(db, SESSION, 50, first=4)
    show(page)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 53))
    append(db, SESSION, 1, first=54)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 54))
    assert page.texts(NOTES) == []
    page.shows("#connection", "live")
    assert streams(page) == 1


def test_a_part_of_an_event_to_come_is_no_row(
    page: Page, acme_key: str, acme: httpx.Client, db: psycopg.Connection
) -> None:
    append(db, SESSION, 3)
    watch(page, acme_key)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 3))
    for text in ("Good", " mor", "ning"):
        acme.post(f"/v1/sessions/{SESSION}/partials", json={"type": "answer", "data": {"text": text}})
    append(db, SESSION, 1, first=4)
    page.until(lambda: page.texts(NUMBERS)[3:] == ["4"])
    # What came before is known as such still.
    hide(page)
    show(page)
    append(db, SESSION, 1, first=5)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 5))


def test_a_text_is_seen_as_it_grows_and_its_event_takes_its_place(
    page: Page, acme_key: str, acme: httpx.Client, db: psycopg.Connection
) -> None:
    append(db, SESSION, 1)
    watch(page, acme_key)
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 1))

    def tell(offset: int, text: str, stream: str = "answer") -> None:
        data = {"stream": stream, "offset": offset, "text": text}
        answer = acme.post(f"/v1/sessions/{SESSION}/partials", json={"type": "answer", "data": data})
        assert answer.status_code == 202, answer.text

    def growing() -> list[str]:
        return page.texts(".growing .data")

    tell(0, "Good 😀 ")
    page.until(lambda: growing() == ["Good 😀 "])
    tell(7, "mor<b>ning")
    page.until(lambda: growing() == ["Good 😀 mor<b>ning"])
    tell(40, "late", stream="other")
    page.until(lambda: growing() == ["Good 😀 mor<b>ning", "… late"])
    # Another attempt begins anew.
    tell(0, "Good day")
    page.until(lambda: growing() == ["Good day", "… late"])
    acme.post(
        f"/v1/sessions/{SESSION}/events", json={"type": "answer", "data": {"text": "Good day.", "stream": "answer"}}
    )
    page.until(lambda: page.texts(NUMBERS) == numbers(1, 2))
    assert growing() == ["… late"]
