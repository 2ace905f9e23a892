"""Failures of steps that a run's code went on from: kept, so that later attempts take the same way.

What ends an attempt is not kept: the next one tries it again.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

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


class _Branch:
    """A task of a run's code, and the one that started it: the latest above it that had asked for something durable."""

    __slots__ = ("_task", "starter")

    def __init__(self, task: asyncio.Task[Any], starter: _Branch | None) -> None:
        # Weak: the task keeps its context, and so this, and that circle only the collector would free.
        self._task = weakref.ref(task)
        self.starter = starter

    def is_of(self, task: asyncio.Task[Any]) -> bool:
        return self._task() is task

    def is_seen(self) -> bool:
        """Whether the task has ended, and somebody has looked at what it raised: gather does, and who awaits it."""
        task = self._task()
        # asyncio's own mark of an exception that nobody has looked at: it logs those.
        return task is None or (task.done() and not getattr(task, "_log_traceback", False))


class _Failed(NamedTuple):
    step: str
    error: Exception
    branch: _Branch


# Of this branch of the code, in order.
_caught: ContextVar[tuple[Exception, ...]] = ContextVar("howdah_caught", default=())
_branch: ContextVar[_Branch | None] = ContextVar("howdah_branch", default=None)


class KeptFailures:
    """The failures of one attempt's steps, until they are kept. To be made in the run's own task."""

    def __init__(self) -> None:
        self._steps: dict[int, _Failed] = {}
        _branch.set(None)
        self.branch()

    def branch(self) -> _Branch:
        """This task of the run's code. Called whenever it asks for something durable, so that its tasks know it."""
        branch, task = _branch.get(), asyncio.current_task()
        assert task is not None, "a run's code is run by tasks"
        if branch is None or not branch.is_of(task):
            branch = _Branch(task, branch)
            _branch.set(branch)
        return branch

    def failed(self, step: str, error: Exception) -> None:
        """A step has failed for good, and its error goes up through this branch."""
        self._steps[id(error)] = _Failed(step, error, self.branch())
        self.passed_on(error)

    def passed_on(self, error: BaseException) -> None:
        """An error that came from another branch goes up through this one."""
        for cause in _chain(error):
            if id(cause) in self._steps and isinstance(cause, Exception):
                _caught.set((*_caught.get(), cause))

    def take(self) -> list[tuple[str, str]]:
        """Those that the code here went on from, not taken before: step and JSON."""
        here = self.branch()
        if not self._steps:
            return []
        # Those of tasks that it has started are known by what it is just handling, or as it has let them end.
        causes = [id(cause) for cause in (*_caught.get(), *_chain(sys.exception()))]
        ended = [known_by for known_by, failed in self._steps.items() if _is_over(failed.branch, here)]
        taken = [self._steps.pop(known_by) for known_by in dict.fromkeys(causes + ended) if known_by in self._steps]
        return [(failed.step, _body(failed.step, failed.error)) for failed in taken]


def _is_over(branch: _Branch | None, here: _Branch) -> bool:
    """Whether all from this branch up to one started here have ended: the code here has had what they raised."""
    over = False
    while branch is not None and branch is not here and branch.is_seen():
        over, branch = True, branch.starter
    return over and branch is here


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
