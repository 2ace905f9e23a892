"""Opaque cursors: where a list goes on. A cursor belongs to one list with its filters and is refused by others."""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Annotated

from litestar.params import QueryParameter

from howdah.app.api.problems import FieldError, Refused

# A page is read, sent and shown at once; beyond this a client wants to go on in steps.
MAX_LIMIT = 200
DEFAULT_LIMIT = 50
_VERSION = b"1"
_CHECK_BYTES = 8
# Longer than any cursor made here, short enough to decode for nothing.
_MAX_CURSOR = 1024

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description=f"Items of a page, 1 to {MAX_LIMIT}.")]
Cursor = Annotated[
    str | None,
    QueryParameter(max_length=_MAX_CURSOR, description="`next` of the page before; leave it out for the first."),
]


def encode_cursor(scope: str, position: str) -> str:
    """The cursor after `position` in the list `scope`: its name and filters, such as ``runs state=failed``."""
    return base64.urlsafe_b64encode(_VERSION + _check(scope, position) + position.encode()).rstrip(b"=").decode()


def decode_cursor(scope: str, cursor: str | None) -> str | None:
    """The position in a cursor that :func:`encode_cursor` made for the same `scope`; None for the first page.

    Raises
    ------
    Refused
        400, if it was made elsewhere or changed.
    """
    if cursor is None:
        return None
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        position = data[1 + _CHECK_BYTES :].decode()
    except (binascii.Error, ValueError):
        raise bad_cursor(cursor) from None
    if data[:1] != _VERSION or data[1 : 1 + _CHECK_BYTES] != _check(scope, position):
        raise bad_cursor(cursor)
    return position


def bad_cursor(cursor: str) -> Refused:
    """The refusal of a cursor that is not one, or not this list's."""
    shown = cursor if len(cursor) <= 40 else f"{cursor[:40]}…"
    detail = f"cursor {shown!r} is not one of this list with these filters: leave it out to start again"
    return Refused(400, "bad-cursor", detail, errors=[FieldError(detail, parameter="cursor")])


def _check(scope: str, position: str) -> bytes:
    return sha256(f"{scope}\n{position}".encode()).digest()[:_CHECK_BYTES]
