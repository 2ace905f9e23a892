"""``python -m tests.chaos [--minutes 2]``: kill workers under load, then count from the tables what became of it.

DATABASE_URL names the server, of a user who may create databases; unset, an embedded one is used.
Ends with 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from howdah.sql.pool import cell_conninfo, make_pool
from howdah.sql.schema import install
from tests.bench.database import fresh_database, server
from tests.chaos.crew import Crew
from tests.chaos.load import TABLES
from tests.chaos.torment import KILLS_A_MINUTE, Tally, torment
from tests.chaos.verify import Verdict, verify

MAX_MINUTES = 60.0
console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("MINUTES") or 2), help="0.1 to 60")
    minutes = parser.parse_args().minutes
    if not 0.1 <= minutes <= MAX_MINUTES:
        parser.error(f"--minutes {minutes} is not between 0.1 and {MAX_MINUTES:g}")
    logs = Path(tempfile.mkdtemp(prefix="howdah-chaos-"))
    with server() as server_url, fresh_database(server_url, "chaos") as url:
        with psycopg.connect(cell_conninfo(url)) as connection:
            install(connection)
            connection.execute(TABLES.encode())
        crew = Crew(url, logs)
        try:
            tally = asyncio.run(_torment(url, crew, minutes))
        finally:
            crew.dismiss()
        with psycopg.connect(cell_conninfo(url), autocommit=True) as connection:
            verdict = verify(connection)
    broken = [*verdict.broken, *crew.deserters]
    if crew.kills < (wanted := int(KILLS_A_MINUTE * minutes)):
        broken.append(f"only {crew.kills} workers were killed in {minutes:g} minutes: at least {wanted} were to be")
    if not verdict.counts["runs rescued from a dead worker"]:
        broken.append("no run was ever rescued: the kills struck nobody, and nothing was proved")
    _show(crew, tally, verdict, broken)
    if broken:
        console.print(f"what the workers wrote is in {logs}")
        return 1
    shutil.rmtree(logs)
    return 0


async def _torment(url: str, crew: Crew, minutes: float) -> Tally:
    async with make_pool(cell_conninfo(url)) as pool:
        return await torment(pool, crew, minutes * 60, lambda line: console.print(line, style="dim", highlight=False))


def _show(crew: Crew, tally: Tally, verdict: Verdict, broken: list[str]) -> None:
    table = Table("count", "of", show_header=False)
    table.add_row(f"{crew.kills:,}", "workers killed by SIGKILL")
    table.add_row(f"{tally.interrupted:,}", "runs under way in them at that moment")
    table.add_row(f"{tally.enqueued:,}", "runs enqueued")
    for what, count in verdict.counts.items():
        table.add_row(f"{count:,}", what)
    console.print(table)
    for what, times in verdict.kept.items():
        console.print(f"[green]kept[/]   {what}" if times == 0 else f"[red]BROKEN[/] {what}, {times} times")
    for sentence in broken:
        console.print(sentence, style="red", highlight=False, markup=False)
    console.print("[red]Promises were broken.[/]" if broken else "[green]Every promise was kept.[/]")


if __name__ == "__main__":
    sys.exit(main())
