"""``python -m tests.chaos [--minutes 4] [--runs 100000]``: torment under load, then count from the tables what became.

Workers are killed and frozen, connections cut, the server crashed. DATABASE_URL names the server, of a user who may
create databases and end their connections; it is not crashed then. Unset, an embedded one is used.
Ends with 1 if any promise was broken, or too little was done to prove them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.table import Table

from howdah.sql.pool import cell_conninfo, make_pool
from howdah.sql.schema import install
from tests.chaos import enqueuer
from tests.chaos.crew import Crew
from tests.chaos.enqueuer import Enqueuer
from tests.chaos.load import LIMITED_QUEUE, LIMITS, TABLES, TENANTS
from tests.chaos.server import Server, own_database, tormented_server
from tests.chaos.torment import Torment
from tests.chaos.verify import Verdict, verify

MINUTES = 4.0
MAX_MINUTES = 60.0
RUNS_A_MINUTE = 25_000  # what two cores finish beside all the dying
KILLS_A_MINUTE = 4  # fewer would prove little
PROVING = (
    "runs rescued from a dead worker",
    "looks at the limited queue that found every slot taken",
    "looks at it that found a tenant with all it may have",
    "failed heads of ordered sessions requeued",
)  # counts that must not be 0
console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=float(os.environ.get("MINUTES") or MINUTES), help="0.1 to 60, by default 4"
    )
    parser.add_argument("--runs", type=int, help=f"how many at least, by default {RUNS_A_MINUTE:,} a minute")
    arguments = parser.parse_args()
    minutes = arguments.minutes
    if not 0.1 <= minutes <= MAX_MINUTES:
        parser.error(f"--minutes {minutes} is not between 0.1 and {MAX_MINUTES:g}")
    runs = int(RUNS_A_MINUTE * minutes) if arguments.runs is None else arguments.runs
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # It warns of each connection that we cut.
    logs = Path(tempfile.mkdtemp(prefix="howdah-chaos-"))
    with tormented_server() as server, own_database(server) as url:
        with psycopg.connect(cell_conninfo(url)) as connection:
            install(connection)
            connection.execute(TABLES.encode())
            connection.execute("select set_queue_limits(%s, %s)", [LIMITED_QUEUE, Jsonb(LIMITS)])
            for tenant in TENANTS:
                connection.execute("select create_tenant(%s)", [tenant])
        crew = Crew(url, logs)
        try:
            torment, load = asyncio.run(_torment(url, server, crew, runs, minutes))
        finally:
            crew.dismiss()
        with psycopg.connect(cell_conninfo(url), autocommit=True) as connection:
            connection.execute("analyze")
            verdict = verify(connection)
    broken = [*verdict.broken, *crew.deserters, *torment.unrefused]
    unproved = [f"no {what}: nothing was proved" for what in PROVING if not verdict.counts[what]]
    done = _done(crew, torment, load)
    for what, wanted in {
        "runs enqueued": runs,
        "workers killed by SIGKILL": int(KILLS_A_MINUTE * minutes),
        "crashes of the server": math.ceil(minutes) if server.ours else 0,
    }.items():
        if done[what] < wanted:
            unproved.append(
                f"only {done[what]:,} {what}: {wanted:,} were to be; is the machine busy with other things?"
            )
    if (booked := verdict.counts["runs expected"]) != load.enqueued:
        broken.append(f"the client counts {load.enqueued:,} runs taken, and its books {booked:,}")
    _show(done, verdict, broken, unproved)
    if broken or unproved:
        console.print(f"what the workers wrote is in {logs}")
        return 1
    shutil.rmtree(logs)
    return 0


async def _torment(url: str, server: Server, crew: Crew, runs: int, minutes: float) -> tuple[Torment, Enqueuer]:
    def tell(line: str) -> None:
        console.print(line, style="dim", highlight=False, soft_wrap=True)

    async with (
        make_pool(cell_conninfo(url, application_name="howdah-chaos")) as pool,
        make_pool(cell_conninfo(url, application_name=enqueuer.APPLICATION), max_size=2) as client_pool,
    ):
        torment, load = Torment(pool, crew, server, tell), Enqueuer(client_pool)
        await torment.run(load, runs, minutes * 60)
    return torment, load


def _done(crew: Crew, torment: Torment, load: Enqueuer) -> dict[str, int]:
    """What was done to the system, and how it took it."""
    tally = torment.tally
    return {
        "seconds": int(tally.seconds),
        "runs enqueued": load.enqueued,
        "batches of them sent again, their answer lost": load.repeats,
        "workers killed by SIGKILL": crew.kills,
        "runs under way in them at that moment": tally.interrupted,
        "workers ended by a poisonous run": crew.poisoned,
        "connections cut": tally.cuts,
        "crashes of the server": tally.crashes,
        "workers that could not start, their database away": crew.false_starts,
        "workers frozen, given up and awake again": tally.zombies,
        "writes of attempts that were over refused": crew.logged("outcome_stale") + crew.logged("attempt_stale"),
    }


def _show(done: dict[str, int], verdict: Verdict, broken: list[str], unproved: list[str]) -> None:
    table = Table("count", "of", show_header=False)
    for what, count in (done | dict(verdict.counts)).items():
        table.add_row(f"{count:,}", what)
    console.print(table)
    for what, times in verdict.kept.items():
        console.print(f"[green]kept[/]   {what}" if times == 0 else f"[red]BROKEN[/] {what}, {times} times")
    for sentence in broken + unproved:
        console.print(sentence, style="red", highlight=False, markup=False, soft_wrap=True)
    if broken:
        console.print("[red]Promises were broken.[/]")
    else:
        console.print("[red]Too little was proved.[/]" if unproved else "[green]Every promise was kept.[/]")


if __name__ == "__main__":
    sys.exit(main())
