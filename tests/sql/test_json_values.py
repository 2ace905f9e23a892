"""What is encoded goes into jsonb and comes back equal; what could not is refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from howdah.sql.errors import BadValue, TooLarge
from howdah.sql.json_values import MAX_BYTES, checked, encode


@dataclass
class Measure:
    name: str
    value: float


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES)
def test_what_is_accepted_can_be_stored_and_comes_back_equal(db: psycopg.Connection, value: Any) -> None:
    try:
        text = encode(value, "it")
    except BadValue:
        return
    row = db.execute("select %s::text::jsonb::text", [text]).fetchone()
    assert row is not None
    assert msgspec.json.decode(row[0]) == value


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_the_same(db: psycopg.Connection, value: float) -> None:
    row = db.execute("select %s::text::jsonb::text", [encode(value, "it")]).fetchone()
    assert row is not None
    assert msgspec.json.decode(row[0], type=float) == value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "place", [lambda x: x, lambda x: [1, [x]], lambda x: {"a": {"b": x}}, lambda x: Measure("m", x)]
)
def test_what_is_no_number_is_refused_not_turned_into_null(bad: float, place: Any) -> None:
    with pytest.raises(BadValue, match="the output of step 's' contains NaN or an infinity"):
        encode(place(bad), "the output of step 's'")


def test_null_and_the_word_null_are_values() -> None:
    assert encode([None, "null", {"null": 1.5}], "it") == '[null,"null",{"null":1.5}]'


@pytest.mark.parametrize("bad", ["a\0b", {"a\0": 1}, ["\\\0"]])
def test_nul_is_refused(bad: Any) -> None:
    with pytest.raises(BadValue, match="it contains the character NUL"):
        encode(bad, "it")


def test_the_text_of_an_escaped_nul_is_only_text() -> None:
    assert msgspec.json.decode(encode("\\u0000", "it")) == "\\u0000"


@pytest.mark.parametrize("bad", ["\ud800", {"a": "x\udfffy"}, {"\udc00": 1}])
def test_a_lone_surrogate_is_refused(bad: Any) -> None:
    with pytest.raises(BadValue, match="it cannot be written as JSON"):
        encode(bad, "it")


@pytest.mark.parametrize("bad", [rb'"\ud800"', rb'"\uD800x"', rb'"\udc00\ud800"', b'"\xff"'])
def test_received_json_with_broken_text_is_refused(bad: bytes) -> None:
    with pytest.raises(BadValue):
        checked(bad, "the body")


def test_received_json_with_a_surrogate_pair_is_kept() -> None:
    assert checked(rb'"\ud83d\ude00"', "the body") == r'"\ud83d\ude00"'


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(BadValue, match="the output cannot be written as JSON: Encoding objects"):
        encode(object(), "the output")


def test_a_value_in_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(BadValue):
        encode(loop, "the output")


def test_one_byte_over_the_limit_is_refused_with_both_sizes() -> None:
    assert len(encode("x" * (MAX_BYTES - 2), "it")) == MAX_BYTES
    with pytest.raises(TooLarge, match="it is 1,048,577 bytes of JSON, the limit is 1,048,576"):
        encode("x" * (MAX_BYTES - 1), "it")


def test_numbers_and_times_keep_all_their_digits() -> None:
    assert encode([Decimal("0.10"), datetime(2030, 1, 2, tzinfo=UTC), b"\x00\xff"], "it") == (
        '["0.10","2030-01-02T00:00:00Z","AP8="]'
    )
