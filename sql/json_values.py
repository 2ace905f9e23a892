"""JSON on its way into Postgres: what jsonb cannot hold is refused before it is queued behind others."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from howdah.sql.errors import BadValue, TooLarge

# An argument or an output is a value, not a document: what is larger belongs in a collection or an object store.
MAX_BYTES = 1 << 20

_encoder = msgspec.json.Encoder(decimal_format="string")


def encode(value: Any, what: str, max_bytes: int = MAX_BYTES) -> str:
    """`value` as JSON text that jsonb accepts.

    Raises
    ------
    BadValue
        For NUL, lone surrogates, NaN and infinities, and types that JSON has no form for.
    TooLarge
        Above `max_bytes`.
    """
    try:
        data = _encoder.encode(value)
    except (TypeError, ValueError, UnicodeEncodeError, OverflowError, RecursionError) as error:
        raise BadValue(f"{what} cannot be written as JSON: {error}") from error
    # The encoder writes NaN and infinities as null, which would come back as something else than was stored.
    if b"null" in data and _has_no_number(msgspec.to_builtins(value)):
        raise BadValue(f"{what} contains NaN or an infinity, which JSON has no form for: replace it, by None perhaps")
    return checked(data, what, max_bytes)


def checked(data: bytes, what: str, max_bytes: int = MAX_BYTES) -> str:
    """JSON bytes as text that jsonb accepts; errors as for :func:`encode`."""
    if len(data) > max_bytes:
        raise TooLarge(f"{what} is {len(data):,} bytes of JSON, the limit is {max_bytes:,}: store it and pass its id")
    if b"\\u0000" in data and _has_nul(data):
        raise BadValue(f"{what} contains the character NUL (\\u0000), which Postgres cannot store: remove it")
    if b"\\ud" in data or b"\\uD" in data:
        # Escaped surrogates: pairs are fine, lone ones are refused by a strict parser, as jsonb does.
        try:
            msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise BadValue(f"{what} is not valid JSON text: {error}") from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadValue(f"{what} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error


def _has_no_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_no_number, value.values()))
    return isinstance(value, list | tuple | set | frozenset) and any(map(_has_no_number, value))


def _has_nul(data: bytes) -> bool:
    """Whether an escaped NUL stands there as such, not as the text ``\\\\u0000`` behind an escaped backslash."""
    start = 0
    while (at := data.find(b"\\u0000", start)) >= 0:
        backslashes = 0
        while at - backslashes - 1 >= 0 and data[at - backslashes - 1] == ord("\\"):
            backslashes += 1
        if backslashes % 2 == 0:
            return True
        start = at + 1
    return False
