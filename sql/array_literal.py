"""Arrays as PostgreSQL's own text form: psycopg writes them element by element, which was a third of a worker's time.

A parameter made here is cast where it is used: ``%s::text[]``. None, where every element is None, is the null array:
`unnest` beside longer arrays gives nulls for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

# Stand for what is between two elements, and for a null, while all elements are escaped at once. JSON never has them
# raw, and Postgres' own names hardly ever: where an element does, the slow way is taken.
_BETWEEN, _NULL = "\x01", "\x02"


def integers(values: Sequence[int]) -> str:
    """``[1, 2]`` as ``{1,2}``."""
    return "{" + ",".join(map(str, values)) + "}"


def texts(values: Sequence[str | None]) -> str | None:
    """``['a', None]`` as ``{"a",NULL}``."""
    nulls = values.count(None)
    if nulls == len(values):
        return None if values else "{}"
    joined = _BETWEEN.join([_NULL if value is None else value for value in values])
    if joined.count(_BETWEEN) != len(values) - 1 or joined.count(_NULL) != nulls:
        return "{" + ",".join(["NULL" if value is None else f'"{_escape(value)}"' for value in values]) + "}"
    quoted = _escape(joined).replace(_BETWEEN, '","')
    literal = f'{{"{quoted}"}}'
    return literal.replace(f'"{_NULL}"', "NULL") if nulls else literal


def timestamps(values: Sequence[datetime | None]) -> str | None:
    """Moments with their time zones."""
    if values.count(None) == len(values):
        return None if values else "{}"
    return texts([None if value is None else value.isoformat() for value in values])


def intervals(values: Sequence[timedelta | None]) -> str | None:
    """Lengths of time, exact to the microsecond."""
    if values.count(None) == len(values):
        return None if values else "{}"
    return texts(
        [None if v is None else f"{v.days} days {v.seconds} seconds {v.microseconds} microseconds" for v in values]
    )


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
