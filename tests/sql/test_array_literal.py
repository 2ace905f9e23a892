"""What goes into a literal comes out of the database, whatever it holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import psycopg

from howdah.sql import array_literal


def test_texts_come_back_as_they_went(db: psycopg.Connection) -> None:
    for values in (
        [],
        ["a"],
        ["", " ", "NULL", "null", None],
        [None, "x", None],
        ['say "so"', "back\\slash", "{curly}", "com,ma", "line\nbreak", "ü–€ 🐘"],
        ["\x01", "\x02", None],
        ["\x01\x01", None, "\x02\\"],
        ['{"a": "\\u0001\\"\\\\"}', '{"b": null}'],
    ):
        assert db.execute("select %s::text[]", [array_literal.texts(values)]).fetchone() == (values,)


def test_an_array_of_nothing_but_nulls_is_null(db: psycopg.Connection) -> None:
    assert array_literal.texts([None, None]) is None
    rows = db.execute("select a, b from unnest(%s::bigint[], %s::text[]) as u(a, b)", ["{1,2}", None]).fetchall()
    assert rows == [(1, None), (2, None)]


def test_numbers_moments_and_lengths_come_back_as_they_went(db: psycopg.Connection) -> None:
    numbers = [0, -5, 2**62]
    moments = [
        datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        None,
        datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=5))),
    ]
    lengths = [timedelta(days=2, seconds=3, microseconds=4), None, timedelta(seconds=-1)]
    assert db.execute(
        "select %s::bigint[], %s::timestamptz[], %s::interval[]",
        [array_literal.integers(numbers), array_literal.timestamps(moments), array_literal.intervals(lengths)],
    ).fetchone() == (numbers, moments, lengths)
