"""What a figure is: what is measured, in which unit, and what Howdah's is to reach."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.system import System

OURS = "howdah"
BEST_PEER = "the best peer"
ROUNDS = 3  # the median of three leaves out one that something else disturbed
DEEP = os.environ.get("DEEP") == "1"  # the deepest queues and longest runs: an hour instead of minutes


@dataclass(frozen=True, slots=True)
class Measure:
    """One number that a figure gives of each system."""

    name: str
    unit: str
    higher_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """What Howdah's `measure` is to reach.

    Attributes
    ----------
    bound
        The least it may be, or where less is better the most. With `of` and `system` it is a multiple of theirs,
        without them a number in the measure's unit.
    of
        The measure to compare with; None with a system: the same.
    system
        Whose; :data:`BEST_PEER` is the best of the others.
    """

    measure: str
    bound: float
    of: str | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one system: a value for each of the figure's measures, taken over so many runs."""

    figure: Figure
    system: System
    runs: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that is measured.

    Attributes
    ----------
    take
        ``take(server_url, figure, system, runs)`` measures one round in a database of its own and gives a value for
        each measure. It raises if a run was lost or finished twice.
    rounds
        Of which the median counts. Figures that take minutes, or are compared with themselves, have one.
    """

    name: str
    meaning: str
    measures: tuple[Measure, ...]
    take: Callable[[str, Figure, System, int], Mapping[str, float]]
    targets: tuple[Target, ...] = ()
    rounds: int = ROUNDS
