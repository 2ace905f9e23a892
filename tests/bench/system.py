"""What a benchmark asks of a system: to be installed, filled, worked off, called, and read; or to send to many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol


class Ran(Protocol):
    """What a run calls at the end of its code; in `pickup` with the seconds since its caller enqueued it."""

    def __call__(self, waited: float = 0.0) -> None: ...


Install = Callable[[str], Coroutine[Any, Any, None]]
Fill = Callable[[str, str, int], Coroutine[Any, Any, None]]
Work = Callable[[str, str, Ran], Coroutine[Any, Any, None]]
Enqueue = Callable[[int], Awaitable[None]]
Enqueuer = Callable[[str, str], AbstractAsyncContextManager[Enqueue]]


@dataclass(frozen=True, slots=True)
class System:
    """A queue that can be measured.

    Attributes
    ----------
    runs
        How many runs a round of each figure gets: enough for seconds of work. A figure that is absent is one that the
        system has nothing for.
    asked
        How it is set up, for the report.
    install
        ``install(url)`` makes its tables in an empty database.
    fill
        ``fill(url, figure, runs)`` enqueues what the figure's worker is to work off, however is fastest.
    work
        ``work(url, figure, ran)`` is one worker in this process, until it is cancelled. Each run calls `ran` at the
        end of its code.
    enqueuer
        ``enqueuer(url, figure)`` connects, as a context, and gives a function that enqueues so many runs in the
        figure's way: see `tests.bench.callers`.
    unfinished
        SQL whose rows are the runs that are not finished; cheap once all of them have run.
    record
        SQL for one row: how many runs finished, and the time of the first claim.
    missing
        Why it cannot be measured on this machine; empty if it can. A system with a reason is skipped, and the report
        says so.
    """

    name: str
    runs: Mapping[str, int]
    asked: Mapping[str, str | int]
    install: Install
    fill: Fill
    work: Work
    enqueuer: Enqueuer
    unfinished: str
    record: str
    missing: Callable[[], str] = lambda: ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A process that sends the same bytes to many clients and keeps nothing: what a stream costs at least.

    Attributes
    ----------
    runs, asked, missing
        As a :class:`System`'s; here it is how many clients a round has.
    kind
        What `tests.bench.stream_server` calls it.
    """

    name: str
    runs: Mapping[str, int]
    asked: Mapping[str, str | int]
    kind: str
    missing: Callable[[], str] = lambda: ""
