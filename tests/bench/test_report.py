"""The benchmark's lines for programs have the form that was promised, and its table tells what a system has not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.figures import FIGURES, SYSTEMS, choose
from tests.bench.report import show, write_json
from tests.bench.rounds import Sample
from tests.bench.systems import graphile_worker

EMPTY, TWO_STEPS = FIGURES
HOWDAH, PGQUEUER = (next(system for system in SYSTEMS if system.name == name) for name in ("howdah", "pgqueuer"))
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
    show(FIGURES, SAMPLES, "a server", {})
    shown = capsys.readouterr().out
    assert "5.0 ×" in shown
    measured = {(sample.figure.name, sample.system.name) for sample in SAMPLES}
    assert shown.count("none") == len(FIGURES) * len(SYSTEMS) - len(measured)


def test_a_system_that_cannot_be_measured_here_is_shown_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    show(FIGURES, SAMPLES, "a server", {"dbos": "it is [not] installed"})
    shown = capsys.readouterr().out
    assert "dbos: skipped: it is [not] installed" in shown
    assert [line.split()[3] for line in shown.splitlines() if line.startswith("│ dbos")] == ["skipped"] * len(FIGURES)


def test_without_node_graphile_worker_is_skipped_and_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert graphile_worker.missing() == "there is no node and no npm"


def test_an_installation_that_fails_skips_graphile_worker_with_what_npm_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("node", "npm"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho there is no network >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(graphile_worker, "PACKAGE", tmp_path / "bench" / "node_modules" / "graphile-worker")
    assert graphile_worker.missing() == "npm could not install graphile-worker 0.18.0: there is no network"


def test_figures_are_chosen_by_name_and_a_wrong_name_is_told() -> None:
    assert choose("drain_two_steps") == (TWO_STEPS,)
    assert choose("") == FIGURES
    with pytest.raises(ValueError, match="there is no figure 'drain_full': choose from drain_empty, drain_two_steps"):
        choose("drain_empty,drain_full")
