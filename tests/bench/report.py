"""What was measured, as a table for people and as lines of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.catalogue import SYSTEMS
from tests.bench.figure import OURS, Figure, Measure, Sample
from tests.bench.system import System
from tests.bench.verdict import verdict

LOG_WIDTH = 110  # columns where there is no terminal


def show(figures: Sequence[Figure], samples: Sequence[Sample], caption: str, skipped: Mapping[str, str]) -> None:
    """Print a table for each figure, with its targets below: met, not met, or not known for want of a number.

    `skipped` gives the reason for each system that could not be measured on this machine, by its name.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    medians = {key: median(values) for key, values in _values(samples).items()}
    for figure in figures:
        console.print(f"[bold]{figure.name}[/]: {figure.meaning}")
        console.print(_table(figure, samples, skipped))
        for target in figure.targets:
            console.print(f"  target: {verdict(target, figure, medians)}", markup=False)
    for system in SYSTEMS:
        asked = ", ".join(f"{name} {value}" for name, value in system.asked.items())
        reason = skipped.get(system.name)
        # As plain text: a program's message may hold brackets, which would be read as markup.
        console.print(f"{system.name}: skipped: {reason}" if reason else f"{system.name}: {asked}", markup=False)
    console.print(caption)


def _table(figure: Figure, samples: Sequence[Sample], skipped: Mapping[str, str]) -> Table:
    """A row for each measure and system: the median, its range, and how many times better Howdah's is."""
    table, values = Table(), _values(samples)
    for column in ("measure", "system", "median", "range", "howdah is", "runs"):
        table.add_column(column, justify="left" if column in ("measure", "system") else "right")
    for measure in figure.measures:
        ours = values.get((measure.name, OURS))
        for system in SYSTEMS:
            if figure.name not in system.runs:
                continue
            theirs = values.get((measure.name, system.name))
            if theirs is None:
                table.add_row(measure.name, system.name, "skipped" if system.name in skipped else "none")
                continue
            middle = median(theirs)
            spread = f"{_number(min(theirs))}–{_number(max(theirs))}" if len(theirs) > 1 else "one round"
            times = f"{_times(measure, median(ours), middle):,.1f} ×" if ours and system.name != OURS else ""
            runs = f"{_asked(samples, figure, system)['runs']:,}"
            table.add_row(measure.name, system.name, f"{_number(middle)} {measure.unit}", spread, times, runs)
    return table


def write_json(path: Path, figures: Sequence[Figure], samples: Sequence[Sample]) -> None:
    """Write a JSON line for each measure and system that has one, replacing the file."""
    values, lines = _values(samples), []
    for figure in figures:
        for measure in figure.measures:
            for system in SYSTEMS:
                if theirs := values.get((measure.name, system.name)):
                    line = {
                        "figure": measure.name,
                        "system": system.name,
                        "value": round(median(theirs), 3),
                        "unit": measure.unit,
                        "higher_is_better": measure.higher_is_better,
                        "asked": _asked(samples, figure, system),
                    }
                    lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines))


def _values(samples: Sequence[Sample]) -> dict[tuple[str, str], list[float]]:
    """What each round gave, by (measure, system)."""
    values: dict[tuple[str, str], list[float]] = {}
    for sample in samples:
        for name, value in sample.values.items():
            values.setdefault((name, sample.system.name), []).append(value)
    return values


def _times(measure: Measure, ours: float, theirs: float) -> float:
    """How many times better."""
    return ours / theirs if measure.higher_is_better else theirs / ours


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _asked(samples: Sequence[Sample], figure: Figure, system: System) -> dict[str, Any]:
    mine = [s for s in samples if s.figure is figure and s.system is system]
    return {"runs": mine[0].runs, "rounds": len(mine), "processes": 1, **system.asked}
