"""What was measured, as a table for people and as lines of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figures import SYSTEMS, Figure
from tests.bench.rounds import Sample
from tests.bench.system import System

OURS = "howdah"


def show(figures: Sequence[Figure], samples: Sequence[Sample], caption: str, skipped: Mapping[str, str]) -> None:
    """Print a row for each figure and system: the median, its range, and how many times it Howdah is.

    `skipped` gives the reason for each system that could not be measured on this machine, by its name.
    """
    console = Console()
    for figure in figures:
        console.print(f"[bold]{figure.name}[/]: {figure.meaning}")
        table = Table()
        for column in ("system", figure.unit, "lowest", "highest", "howdah is", "runs"):
            table.add_column(column, justify="left" if column == "system" else "right")
        ours = _rates(samples, figure, OURS)
        for system in SYSTEMS:
            rates = _rates(samples, figure, system.name)
            if not rates:
                table.add_row(system.name, "skipped" if system.name in skipped else "none", "", "", "", "")
                continue
            times = f"{median(ours) / median(rates):,.1f} ×" if ours and system.name != OURS else ""
            numbers = [f"{number:,.0f}" for number in (median(rates), min(rates), max(rates))]
            table.add_row(system.name, *numbers, times, f"{_asked(samples, figure, system)['runs']:,}")
        console.print(table)
    for system in SYSTEMS:
        asked = ", ".join(f"{name} {value}" for name, value in system.asked.items())
        reason = skipped.get(system.name)
        # As plain text: a program's message may hold brackets, which would be read as markup.
        console.print(f"{system.name}: skipped: {reason}" if reason else f"{system.name}: {asked}", markup=False)
    console.print(caption)


def write_json(path: Path, figures: Sequence[Figure], samples: Sequence[Sample]) -> None:
    """Write a JSON line for each figure and system that has one, replacing the file."""
    lines = []
    for figure in figures:
        for system in SYSTEMS:
            if rates := _rates(samples, figure, system.name):
                line = {
                    "figure": figure.name,
                    "system": system.name,
                    "value": round(median(rates), 1),
                    "unit": figure.unit,
                    "higher_is_better": True,
                    "asked": _asked(samples, figure, system),
                }
                lines.append(json.dumps(line) + "\n")
    path.write_text("".join(lines))


def _rates(samples: Sequence[Sample], figure: Figure, system: str) -> list[float]:
    return [s.rate for s in samples if s.figure is figure and s.system.name == system]


def _asked(samples: Sequence[Sample], figure: Figure, system: System) -> dict[str, Any]:
    mine = [s for s in samples if s.figure is figure and s.system is system]
    return {"runs": mine[0].runs, "rounds": len(mine), "processes": 1, **system.asked}
