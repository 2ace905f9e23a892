"""The benchmark's lines for programs have the form that was promised, and its table tells what a system has not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.figures import FIGURES, SYSTEMS, choose
from tests.bench.report import show, write_json
from tests.bench.rounds import Sample

EMPTY, TWO_STEPS = FIGURES
HOWDAH, PGQUEUER, PROCRASTINATE = SYSTEMS
SAMPLES = [
    *(Sample(EMPTY, HOWDAH, 1_000, 1_000, seconds) for seconds in (0.1, 0.5, 0.2)),
    *(Sample(EMPTY, PGQUEUER, 400, 400, seconds) for seconds in (0.4, 0.4, 0.1)),
    Sample(TWO_STEPS, HOWDAH, 400, 400, 0.2),
]


def test_a_line_for_each_system_and_figure_that_was_measured_and_no_other(tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", FIGURES, SAMPLES)
    lines = [json.loads(line) for line in (tmp_path / "bench.json").read_text().splitlines()]
    assert [(line["figure"], line["system"], line["value"]) for line in lines] == [
        ("drain_empty", "howdah", 5_000.0),
        ("drain_empty", "pgqueuer", 1_000.0),
        ("drain_two_steps", "howdah", 2_000.0),
    ]
    assert all(set(line) == {"figure", "system", "value", "unit", "higher_is_better", "asked"} for line in lines)
    assert lines[0]["higher_is_better"] is True
    assert lines[1]["asked"]["runs"] == 400
    assert lines[1]["asked"]["rounds"] == 3


def test_the_table_shows_medians_ratios_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    show(FIGURES, SAMPLES, "a server")
    shown = capsys.readouterr().out
    assert "5.0 ×" in shown
    assert shown.count("none") == 3  # procrastinate was not measured; two systems have no durable steps


def test_figures_are_chosen_by_name_and_a_wrong_name_is_told() -> None:
    assert choose("drain_two_steps") == (TWO_STEPS,)
    assert choose("") == FIGURES
    with pytest.raises(ValueError, match="there is no figure 'drain_full': choose from drain_empty, drain_two_steps"):
        choose("drain_empty,drain_full")
