"""When a cron expression fires, above all as clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from howdah.jobs.cron import Cron
from howdah.sql.errors import BadSchedule

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
# Each change with the last second before it, in UTC.
FORWARD = [
    (BERLIN, datetime(2026, 3, 29, 0, 59, 59, tzinfo=UTC), "01:59:59", "03:00:00"),
    (NEW_YORK, datetime(2026, 3, 8, 6, 59, 59, tzinfo=UTC), "01:59:59", "03:00:00"),
]
BACK = [
    (BERLIN, datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC), "02:59:59", "02:00:00"),
    (NEW_YORK, datetime(2026, 11, 1, 5, 59, 59, tzinfo=UTC), "01:59:59", "01:00:00"),
]


def fires(cron: str, zone: str, start: datetime, hours: float) -> list[datetime]:
    """All moments of the `hours` after `start`."""
    reader, found, end = Cron(cron, zone), [], start + timedelta(hours=hours)
    while (start := reader.after(start)) <= end:
        found.append(start)
    return found


def clock(moments: list[datetime], zone: str) -> list[str]:
    """What the clock of `zone` shows, with its offset from UTC."""
    return [moment.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z")[:-2] for moment in moments]


@pytest.mark.parametrize(("zone", "second", "before", "after"), FORWARD + BACK)
def test_the_changes_are_where_these_tests_believe_them(zone: str, second: datetime, before: str, after: str) -> None:
    shown = [(second + timedelta(seconds=n)).astimezone(ZoneInfo(zone)).strftime("%H:%M:%S") for n in (0, 1)]
    assert shown == [before, after]


@pytest.mark.parametrize(("zone", "second", "_before", "_after"), FORWARD + BACK)
@pytest.mark.parametrize("cron", ["*/5 * * * *", "*/5 0-23 * * *", "0 * * * *", "* * * * * 0,20,40"])
def test_what_fires_every_hour_keeps_its_distance_through_a_change(
    zone: str, second: datetime, cron: str, _before: str, _after: str
) -> None:
    moments = fires(cron, zone, second - timedelta(hours=5), 10)
    distances = {later - earlier for earlier, later in pairwise(moments)}
    assert len(distances) == 1
    assert len(moments) == timedelta(hours=10) / distances.pop()


@pytest.mark.parametrize(
    ("zone", "start", "expected"),
    [
        (BERLIN, datetime(2026, 3, 28, tzinfo=UTC), ["28 02:30+01", "29 03:00+02", "30 02:30+02"]),
        (NEW_YORK, datetime(2026, 3, 7, 5, tzinfo=UTC), ["07 02:30-05", "08 03:00-04", "09 02:30-04"]),
    ],
)
def test_a_time_that_is_left_out_fires_once_right_after_the_gap(
    zone: str, start: datetime, expected: list[str]
) -> None:
    assert clock(fires("30 2 * * *", zone, start, 72), zone) == expected


@pytest.mark.parametrize(
    ("zone", "cron", "start", "expected"),
    [
        (BERLIN, "30 2 * * *", datetime(2026, 10, 24, tzinfo=UTC), ["24 02:30+02", "25 02:30+02", "26 02:30+01"]),
        (NEW_YORK, "30 1 * * *", datetime(2026, 10, 31, 4, tzinfo=UTC), ["31 01:30-04", "01 01:30-04", "02 01:30-05"]),
    ],
)
def test_a_time_that_comes_twice_fires_the_first_time_only(
    zone: str, cron: str, start: datetime, expected: list[str]
) -> None:
    assert clock(fires(cron, zone, start, 72), zone) == expected


def test_many_times_in_one_gap_fire_once_together() -> None:
    moments = fires("*/20 1-3 * * *", BERLIN, datetime(2026, 3, 28, 23, tzinfo=UTC), 4)
    assert clock(moments, BERLIN) == [
        "29 01:00+01", "29 01:20+01", "29 01:40+01", "29 03:00+02", "29 03:20+02", "29 03:40+02",
    ]  # fmt: skip


def test_a_schedule_for_certain_hours_loses_nothing_as_clocks_go_back() -> None:
    moments = fires("*/20 1-3 * * *", BERLIN, datetime(2026, 10, 24, 22, tzinfo=UTC), 6)
    assert clock(moments, BERLIN) == [
        "25 01:00+02", "25 01:20+02", "25 01:40+02", "25 02:00+02", "25 02:20+02", "25 02:40+02",
        "25 03:00+01", "25 03:20+01", "25 03:40+01",
    ]  # fmt: skip


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/5 * * * *"])
def test_from_within_the_repeated_hour_it_goes_on_without_a_repeat(cron: str) -> None:
    in_second_pass = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    expected = {"30 2 * * *": "26 02:30+01", "*/5 * * * *": "25 02:15+01"}
    assert clock([Cron(cron, BERLIN).after(in_second_pass)], BERLIN) == [expected[cron]]


def test_clocks_that_change_by_half_an_hour_or_a_day_follow_the_same_rules() -> None:
    half = fires("15 2 * * *", "Australia/Lord_Howe", datetime(2026, 10, 3, 0, tzinfo=UTC), 24)
    assert clock(half, "Australia/Lord_Howe") == ["04 02:30+11"]
    # Samoa left out 30 December 2011: what was for that day fires as the next begins, together with that one's own.
    day = fires("0 0 * * *", "Pacific/Apia", datetime(2011, 12, 29, 0, tzinfo=UTC), 60)
    assert clock(day, "Pacific/Apia") == ["29 00:00-10", "31 00:00+14", "01 00:00+14"]


def test_a_schedule_far_ahead_is_found_across_many_changes() -> None:
    assert clock([Cron("0 * 29 2 *", BERLIN).after(datetime(2026, 7, 1, tzinfo=UTC))], BERLIN) == ["29 00:00+01"]
    assert Cron("0 12 29 2 *", BERLIN).after(datetime(2026, 7, 1, tzinfo=UTC)).year == 2028


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, "Asia/Kolkata"])
@pytest.mark.parametrize("cron", ["*/7 * * * *", "30 2 * * *", "0 9-17/2 * * mon-fri", "15 2,3 1,8,25,29 * *"])
def test_the_latest_moment_is_the_one_that_counting_finds(zone: str, cron: str) -> None:
    start = datetime(2026, 10, 20, 3, 3, 3, tzinfo=UTC)
    moments = fires(cron, zone, start, 14 * 24)
    reader = Cron(cron, zone)
    for earlier, later in list(pairwise(moments))[:: len(moments) // 40 + 1]:
        assert reader.latest(moments[0], earlier) == earlier
        assert reader.latest(moments[0], later - timedelta(microseconds=1)) == earlier


def test_a_moment_is_never_given_again() -> None:
    reader = Cron("*/5 * * * *")
    at = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
    assert reader.after(at) == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    assert reader.after(at - timedelta(microseconds=1)) == at


@pytest.mark.parametrize("cron", ["@hourly", "0 0 ? * mon-fri", "0 0 L * *", "0 0 * * fri#2", "* * * * * */10"])
def test_usual_expressions_are_read(cron: str) -> None:
    Cron(cron, BERLIN).after(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "cron",
    ["", "* * * *", "60 * * * *", "a b c d e", "*/0 * * * *", "H * * * *", "R * * * *", "0,R(1-9) * * * *", "@reboot",
     "0 0 * * * 0 2027", "\x00 * * * *", "- * * * *", "1-*/2 * * * *"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_text(cron: str) -> None:
    with pytest.raises(BadSchedule, match=r"cron '.*write five fields"):
        Cron(cron)


def test_what_never_comes_is_refused() -> None:
    with pytest.raises(BadSchedule, match="names no moment"):
        Cron("0 0 30 2 *").after(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("zone", ["", "Europe", "Mars/Base", "../etc/passwd", "/etc/passwd", "europe/\x00"])
def test_a_time_zone_that_is_none_is_refused_with_its_name(zone: str) -> None:
    with pytest.raises(BadSchedule, match="use an IANA name"):
        Cron("0 0 * * *", zone)
