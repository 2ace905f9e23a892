"""The rounds: each figure of each system, interleaved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tests.bench.figure import Figure, Sample
from tests.bench.system import System

QUICK = 0.1  # below this scale one round must do: starting processes would take longer than what they are to show


def samples(
    server_url: str,
    figures: Sequence[Figure],
    systems: Sequence[System],
    scale: float,
    failed: Callable[[Figure, System, Exception], None],
) -> Iterator[Sample]:
    """Measure every figure of every system that has it, in as many rounds as the figure asks for.

    A round is one of each system, then the next of each, so that a slow minute of the machine falls on all of them.
    A measurement that fails is told to `failed`, and the others go on: a pass takes a quarter of an hour.
    """
    for number in range(max(figure.rounds for figure in figures) if scale >= QUICK else 1):
        for figure in figures:
            for system in systems:
                if figure.name in system.runs and number < figure.rounds:
                    runs = max(1, round(system.runs[figure.name] * scale))
                    try:
                        values = figure.take(server_url, figure, system, runs)
                    except Exception as error:
                        failed(figure, system, error)
                    else:
                        yield Sample(figure, system, runs, values)
