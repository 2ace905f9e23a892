"""Failures of steps that a run's code went on from: kept, so that later attempts take the same way.

What ends an attempt is not kept: the next one tries it again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import msgspec

from howdah.jobs.errors import StepFailedError
from howdah.sql.errors import HowdahError
from howdah.sql.json_values import encode

MAX_MESSAGE = 4_000  # characters


class KeptFailure(msgspec.Struct):
    """A step's error as JSON: what can be said of it that way."""

    type: str
    message: str
    args: list[Any]
    fields: dict[str, Any]


# Of this branch of the code, in order.
_caught: ContextVar[tuple[Exception, ...]] = ContextVar("howdah_caught", default=())


class KeptFailures:
    """The failures of one attempt's steps, until they are kept."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[str, Exception]] = {}

    def failed(self, step: str, error: Exception) -> None:
        """A step has failed for good, and its error goes up through this branch."""
        self._steps[id(error)] = (step, error)
        self.passed_on(error)

    def passed_on(self, error: BaseException) -> None:
        """An error that came from another branch goes up through this one."""
        for cause in _chain(error):
            if id(cause) in self._steps and isinstance(cause, Exception):
                _caught.set((*_caught.get(), cause))

    def take(self) -> list[tuple[str, str]]:
        """Those that the code here went on from, not taken before: step and JSON."""
        if not self._steps:
            return []
        # Those of tasks that it has started itself are known by what it is just handling.
        causes = [*_caught.get(), *_chain(sys.exception())]
        taken = [self._steps.pop(id(cause)) for cause in dict.fromkeys(causes) if id(cause) in self._steps]
        return [(step, _body(step, error)) for step, error in taken]


def rebuild(step: str, body: str) -> Exception:
    """The error that a step failed with, as far as it was kept."""
    kept = msgspec.json.decode(body, type=KeptFailure)
    module, _, name = kept.type.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return StepFailedError(f"step {step!r} failed in an earlier attempt with {name}: {kept.message}")
    error = found.__new__(found)
    error.args = tuple(kept.args)
    error.__dict__.update(kept.fields)
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    todo = [error]
    while todo:
        some = todo.pop()
        if some is None or id(some) in seen:
            continue
        seen.add(id(some))
        yield some
        todo += [some.__cause__, some.__context__]
        if isinstance(some, BaseExceptionGroup):
            todo += some.exceptions


def _body(step: str, error: Exception) -> str:
    kind = type(error)
    fields = {name: value for name, value in vars(error).items() if _storable(value)}
    args = list(error.args) if all(map(_storable, error.args)) else [str(error)[:MAX_MESSAGE]]
    kept = KeptFailure(f"{kind.__module__}:{kind.__qualname__}", repr(error)[:MAX_MESSAGE], args, fields)
    return encode(kept, f"the failure of step {step!r}")


def _storable(value: Any) -> bool:
    if not isinstance(value, str | int | float | bool | list | dict | None):
        return False
    try:
        return len(encode(value, "a field")) <= MAX_MESSAGE
    except HowdahError:
        return False
