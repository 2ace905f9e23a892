"""W3C trace context: what a request says of the trace that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

TRACEPARENT = r"^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$(?!\n)"


def traceparent_of(headers: Mapping[str, str]) -> str | None:
    """The request's own, where it is one: another is ignored, as W3C asks."""
    given = headers.get("traceparent")
    return given if given is not None and re.match(TRACEPARENT, given) else None
