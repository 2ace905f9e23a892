"""``python -m tests.bench [--only a,b] [--scale 0.1]``: Howdah and its peers, side by side on one server.

ONLY in the environment is `--only`. BENCH_JSON names a file that gets a JSON line for each measure and system. DEEP=1
makes the deepest queue and the longest run ten and five times as large. DATABASE_URL names the server, of a user who
may create databases and checkpoint; unset, an embedded one is used.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import psycopg
from rich.console import Console

from tests.bench.catalogue import FIGURES, SYSTEMS, choose
from tests.bench.database import server
from tests.bench.figure import Figure, Sample
from tests.bench.report import show, write_json
from tests.bench.rounds import samples
from tests.bench.system import System


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0])
    known = ", ".join(figure.name for figure in FIGURES)
    parser.add_argument("--only", default=os.environ.get("ONLY", ""), help=f"figures, comma-separated, of {known}")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the runs of a round, for a quick look")
    options = parser.parse_args()
    try:
        figures = choose(options.only)
    except ValueError as error:
        parser.error(str(error))
    if not 0 < options.scale <= 10:
        parser.error(f"--scale {options.scale} is not between 0 and 10")
    progress, taken, failures = Console(stderr=True), list[Sample](), list[str]()

    def failed(figure: Figure, system: System, error: Exception) -> None:
        failures.append(f"{figure.name} of {system.name} failed: {error}")
        progress.print(failures[-1], markup=False)

    skipped = {system.name: reason for system in SYSTEMS if (reason := system.missing())}
    systems = [system for system in SYSTEMS if system.name not in skipped]
    with server() as url:
        caption = _describe(url)
        if options.scale < 1:
            caption += f"; only {options.scale:g} of the runs: a check of the benchmark, no figures to quote"
        for sample in samples(url, figures, systems, options.scale, failed):
            taken.append(sample)
            numbers = ", ".join(
                f"{measure.name} {sample.values[measure.name]:,.2f} {measure.unit}"
                for measure in sample.figure.measures
                if measure.name in sample.values
            )
            progress.print(f"{sample.figure.name} of {sample.system.name}: {numbers} ({sample.runs:,} runs)")
    show(figures, taken, caption, skipped)
    if path := os.environ.get("BENCH_JSON"):
        write_json(Path(path), figures, taken)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _describe(url: str) -> str:
    with psycopg.connect(url) as connection:
        settings = connection.execute(
            "select current_setting('server_version'), current_setting('fsync'),"
            " current_setting('synchronous_commit'), current_setting('shared_buffers')"
        ).fetchone()
    assert settings is not None
    version, fsync, synchronous, buffers = settings
    return (
        f"PostgreSQL {version.split()[0]}, fsync {fsync}, synchronous_commit {synchronous}, shared_buffers {buffers};"
        f" {os.cpu_count()} cores for server, worker and callers; medians of the rounds shown"
    )


if __name__ == "__main__":
    sys.exit(main())
