"""What a benchmark asks of a system: how to fill its queue, how to work it off, and how to read what it did."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

Prepare = Callable[[str, str, int], Coroutine[Any, Any, None]]
Work = Callable[[str, str, Callable[[], None]], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class System:
    """A queue that can be measured.

    Attributes
    ----------
    runs
        How many runs a round of each figure gets: enough for seconds of work. A figure that is absent is one that the
        system has nothing for.
    asked
        How its worker is set up, for the report.
    prepare
        ``prepare(url, figure, runs)`` installs the system in an empty database and enqueues the runs.
    work
        ``work(url, figure, ran)`` is one worker in this process, until it is cancelled. Each run calls `ran` at the
        end of its code.
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
    prepare: Prepare
    work: Work
    unfinished: str
    record: str
    missing: Callable[[], str] = lambda: ""
