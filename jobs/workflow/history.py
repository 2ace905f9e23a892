"""What a run has finished in earlier attempts, and whether its code still asks for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from typing import NamedTuple, TypeVar

import msgspec

from howdah.jobs.errors import HistoryContradictedError

# What a step keeps aside for itself while it is not finished, or beside its output: no step. The same in fork_run.sql.
ASIDE = r"#(until|caught|failed-[0-9]+|children-[0-9]+|outputs-[0-9]+)$"
MAX_STEP_NAME = 200
MAX_SHOWN = 5  # steps named in an error
MAX_OUTPUT = 200  # characters of an output shown in an error
MEND = " deploy the code it began with under its version, or fork the run from an earlier step"

T = TypeVar("T")


class Finished(NamedTuple):
    """A finished step: its output as JSON text, and the step it came after; see `checkpoint.after` in SQL."""

    output: str
    after: str | None


# The step that finished last in this branch of the code: tasks that asyncio starts inherit it, and keep their own.
_last_step: ContextVar[str] = ContextVar("howdah_last_step", default="")
# The step whose function runs now, so that what it emits is numbered within it.
_current_step: ContextVar[str] = ContextVar("howdah_step", default="")


class History:
    """The finished steps of one run, by numbered name."""

    def __init__(self, run_id: int, steps: Mapping[str, Finished]) -> None:
        self._run_id = run_id
        self._steps = steps
        self._asked: set[str] = set()
        self._names: dict[str, int] = {}

    def number(self, name: str) -> str:
        """The name of the next step that the code calls `name`: repeats, as in a loop, are numbered.

        Raises
        ------
        ValueError
            If the name cannot be used.
        """
        if not 0 < len(name) <= MAX_STEP_NAME or "#" in name or "\0" in name:
            raise ValueError(f"step name {name!r} cannot be used: 1 to {MAX_STEP_NAME} characters, without '#' or NUL")
        number = self._names[name] = self._names.get(name, 0) + 1
        return numbered(name, number)

    def next_number(self, name: str) -> str:
        """What `number` will answer, without taking it."""
        return numbered(name, self._names.get(name, 0) + 1)

    def recall(self, step: str, after: str | None) -> str | None:
        """The output of `step`, if it has finished, as JSON text.

        Raises
        ------
        HistoryContradictedError
            If it came after another step than the code asks for it after now.
        """
        found = self._steps.get(step)
        if found is None:
            return None
        if None not in (found.after, after) and found.after != after:
            raise HistoryContradictedError(
                f"run {self._run_id} began with other code: step {step!r} finished after"
                f" {found.after or 'the start'!r}, and the code now asks for it after {after or 'the start'!r};{MEND}"
            )
        self._asked.add(step)
        return found.output

    def peek(self, step: str) -> str | None:
        """The output of `step`, if it has finished; where it stands does not matter."""
        found = self._steps.get(step)
        return None if found is None else found.output

    def decode(self, step: str, output: str, kind: type[T]) -> T:
        """The output of a step that keeps a `kind`; errors as for `recall`, where another kind of step has kept it."""
        try:
            return msgspec.json.decode(output, type=kind)
        except msgspec.DecodeError as error:
            raise HistoryContradictedError(
                f"run {self._run_id} began with other code: step {step!r} has kept {output[:MAX_OUTPUT]}, and the code"
                f" now asks for another kind of step there ({error});{MEND}"
            ) from error

    def outputs(self) -> Iterator[tuple[str, str]]:
        """All steps and their outputs."""
        return ((step, finished.output) for step, finished in self._steps.items())

    def assert_all_asked(self) -> None:
        """Refuse the end of a run whose code left finished steps out; errors as for `recall`."""
        left = [s for s, finished in self._steps.items() if finished.after is not None and s not in self._asked]
        if left:
            shown = ", ".join(map(repr, left[:MAX_SHOWN])) + (" …" if len(left) > MAX_SHOWN else "")
            raise HistoryContradictedError(
                f"run {self._run_id} began with other code: it finished {shown}, and the code now ended without asking"
                f" for {'it' if len(left) == 1 else 'them'};{MEND}"
            )


def place() -> str | None:
    """The step that a step asked for here comes after; None within another step's function."""
    return None if _current_step.get() else _last_step.get()


def passed(step: str) -> None:
    """Say that `step` has finished in this branch."""
    if not _current_step.get():
        _last_step.set(step)


def current_step() -> str:
    """The step whose function runs here; '' between steps."""
    return _current_step.get()


class Inside:
    """A context: while the step's function runs. As a class, as one that is a generator took three times as long."""

    __slots__ = ("_before", "_step")

    def __init__(self, step: str) -> None:
        self._step = step

    def __enter__(self) -> None:
        self._before: Token[str] = _current_step.set(self._step)

    def __exit__(self, *_: object) -> None:
        _current_step.reset(self._before)


def numbered(name: str, number: int) -> str:
    """``name``, ``name#2``, ``name#3`` …"""
    return name if number == 1 else f"{name}#{number}"
