"""The benchmark's lines for programs have the form that was promised, and its tables tell what a system has not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.catalogue import FIGURES, SYSTEMS, choose
from tests.bench.figure import Figure, Sample
from tests.bench.report import show, write_json
from tests.bench.systems import graphile_worker


def figure_named(name: str) -> Figure:
    return next(figure for figure in FIGURES if figure.name == name)


EMPTY, TWO_STEPS, PICKUP = (figure_named(name) for name in ("drain_empty", "drain_two_steps", "pickup"))
HOWDAH, PGQUEUER = (next(system for system in SYSTEMS if system.name == name) for name in ("howdah", "pgqueuer"))
SAMPLES = [
    *(Sample(EMPTY, HOWDAH, 1_000, {"drain_empty": rate}) for rate in (10_000.0, 2_000.0, 5_000.0)),
    *(Sample(EMPTY, PGQUEUER, 400, {"drain_empty": rate}) for rate in (1_000.0, 1_000.0, 4_000.0)),
    Sample(TWO_STEPS, HOWDAH, 400, {"drain_two_steps": 2_000.0}),
    Sample(PICKUP, HOWDAH, 500, {"pickup_p50": 3.0, "pickup_p99": 30.0}),
    Sample(PICKUP, PGQUEUER, 500, {"pickup_p50": 6.0, "pickup_p99": 15.0}),
]
MEASURED = (EMPTY, TWO_STEPS, PICKUP)


def shown(capsys: pytest.CaptureFixture[str], skipped: dict[str, str] | None = None) -> str:
    show(MEASURED, SAMPLES, "a server", skipped or {})
    return capsys.readouterr().out


def test_a_line_for_each_measure_and_system_that_was_measured_and_no_other(tmp_path: Path) -> None:
    write_json(tmp_path / "bench.json", FIGURES, SAMPLES)
    lines = [json.loads(line) for line in (tmp_path / "bench.json").read_text().splitlines()]
    assert [(line["figure"], line["system"], line["value"], line["higher_is_better"]) for line in lines] == [
        ("drain_empty", "howdah", 5_000.0, True),
        ("drain_empty", "pgqueuer", 1_000.0, True),
        ("drain_two_steps", "howdah", 2_000.0, True),
        ("pickup_p50", "howdah", 3.0, False),
        ("pickup_p50", "pgqueuer", 6.0, False),
        ("pickup_p99", "howdah", 30.0, False),
        ("pickup_p99", "pgqueuer", 15.0, False),
    ]
    assert all(set(line) == {"figure", "system", "value", "unit", "higher_is_better", "asked"} for line in lines)
    assert lines[1]["asked"]["runs"] == 400
    assert lines[1]["asked"]["rounds"] == 3
    assert lines[3]["unit"] == "ms"


def test_a_table_shows_medians_ranges_and_how_many_times_better_howdah_is(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row_cells(line) for line in shown(capsys).splitlines() if line.startswith("│")]
    assert ["drain_empty", "pgqueuer", "1,000 runs/s", "1,000–4,000", "5.0 ×", "400"] in rows
    assert ["pickup_p50", "pgqueuer", "6.00 ms", "one round", "2.0 ×", "500"] in rows
    assert ["pickup_p99", "pgqueuer", "15.00 ms", "one round", "0.5 ×", "500"] in rows


def row_cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_targets_are_met_or_not_or_not_known_where_the_other_number_was_not_taken(
    capsys: pytest.CaptureFixture[str],
) -> None:
    targets = [line.removeprefix("  target: ") for line in shown(capsys).splitlines() if "target:" in line]
    assert targets == [
        "drain_empty ≥ 1.3 × graphile-worker's: not known without that one",
        "drain_empty ≥ 2 × pgqueuer's: 5.00 ×, met",
        "drain_two_steps ≥ 8,400 runs/s: 2,000.00 runs/s, not met",
        "drain_two_steps ≥ 30 × dbos's: not known without that one",
        "pickup_p50 ≤ 4 ms: 3.00 ms, met",
        "pickup_p99 ≤ 20 ms: 30.00 ms, not met",
    ]


def test_what_was_not_measured_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row_cells(line) for line in shown(capsys).splitlines() if line.startswith("│")]
    assert {tuple(row[:2]) for row in rows if row[2] == "none"} == {
        *(("drain_empty", name) for name in ("graphile-worker", "procrastinate", "dbos")),
        ("drain_two_steps", "dbos"),
        ("pickup_p50", "graphile-worker"),
        ("pickup_p99", "graphile-worker"),
    }


def test_a_system_that_cannot_be_measured_here_is_shown_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, {"dbos": "it is [not] installed"}).splitlines()
    assert "dbos: skipped: it is [not] installed" in lines
    rows = [row_cells(line) for line in lines if line.startswith("│")]
    assert [row[2] for row in rows if row[1] == "dbos"] == ["skipped", "skipped"]


def test_every_measure_has_a_name_of_its_own_and_every_target_one_that_is_taken() -> None:
    measures = [measure.name for figure in FIGURES for measure in figure.measures]
    assert len(set(measures)) == len(measures)
    for figure in FIGURES:
        for target in figure.targets:
            assert target.measure in {measure.name for measure in figure.measures}
            assert target.of is None or target.of in measures


def test_every_figure_a_system_has_runs_for_exists_and_howdah_has_them_all() -> None:
    names = {figure.name for figure in FIGURES}
    assert set(HOWDAH.runs) == names
    assert all(set(system.runs) <= names for system in SYSTEMS)


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
