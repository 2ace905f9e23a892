"""`howdah run …`: one run, seen and acted on from the terminal, by what the operator schema offers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from typing import Any

import click
import msgspec
import psycopg
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb
from rich.console import Console

from howdah.app.database import find_database
from howdah.app.settings import Settings
from howdah.sql.errors import NotAChoice, UnknownRun, WrongState, from_psycopg
from howdah.sql.pool import cell_conninfo, connect
from howdah.sql.schema import operator_schema

PLAIN_WIDTH = 150

console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
run_id_argument = click.argument("run_id", metavar="ID", type=click.IntRange(0, 2**63 - 1))


@click.group()
def run() -> None:
    """See one run, and act on it."""


@run.command()
@run_id_argument
@click.pass_obj
def watch(settings: Settings, run_id: int) -> None:
    """Follow a run until it is over. Exit status: 0 it succeeded, 1 it failed or was cancelled."""
    from howdah.app.run_watch import watch as follow

    if not _run(follow(console, settings, find_database(settings), run_id)):
        sys.exit(1)


@run.command()
@run_id_argument
@click.pass_obj
def show(settings: Settings, run_id: int) -> None:
    """Show a run as it is now: its steps, what it waits for, its children, its end."""
    from howdah.app.run_watch import show as tell

    _run(tell(console, settings, find_database(settings), run_id))


@run.command()
@run_id_argument
@click.argument("name")
@click.argument("payload", default="null")
@click.pass_obj
def signal(settings: Settings, run_id: int, name: str, payload: str) -> None:
    """Tell a run what it waits for, or will wait for. PAYLOAD is JSON; what is none is sent as text."""
    value: Any = payload
    with contextlib.suppress(msgspec.DecodeError):
        value = msgspec.json.decode(payload)
    status = _call(settings, "select status from {}.send_signal(%s, %s, %s)", run_id, name, Jsonb(value))
    if status == "not_a_choice":
        query = "select choices from {}.waits where run_id = %s and kind = 'signal' and name = %s"
        choices = _call(settings, query, run_id, name) or []
        one = ", ".join(map(str, choices)) or "others"
        raise NotAChoice(f"run {run_id} waits for the signal {name!r} with one of: {one}; this was {payload}")
    if status == "finished":
        raise WrongState(f"run {run_id} is over: it waits for no signal any more")
    _known(run_id, status)
    console.print(f"sent {name!r} to run {run_id}")


@run.command()
@run_id_argument
@click.pass_obj
def cancel(settings: Settings, run_id: int) -> None:
    """Cancel a run: at once where it is not running, else by asking its worker. Its children go with it."""
    status = _call(settings, "select status from {}.cancel_run(%s)", run_id)
    if status == "finished":
        raise WrongState(f"run {run_id} is over already: there is nothing to cancel")
    _known(run_id, status)
    console.print(f"run {run_id} {'was asked to stop' if status == 'requested' else 'is cancelled'}")


@run.command()
@run_id_argument
@click.pass_obj
def requeue(settings: Settings, run_id: int) -> None:
    """Bring a failed or cancelled run back. A workflow goes on from its last finished step."""
    status = _call(settings, "select status from {}.requeue_run(%s)", run_id)
    _known(run_id, status)
    if status != "requeued":
        raise WrongState(f"run {run_id} is {status}: only failed and cancelled runs can be requeued")
    console.print(f"run {run_id} is queued again; follow it: howdah run watch {run_id}")


@run.command()
@run_id_argument
@click.option("--steps", type=click.IntRange(0), default=None, help="how many finished steps it keeps  [default: all]")
@click.option("--task", default=None, help="another task or version that goes on from there  [default: its own]")
@click.pass_obj
def fork(settings: Settings, run_id: int, steps: int | None, task: str | None) -> None:
    """Create a run that goes on after the first finished steps of this one, which stays as it is."""
    if steps is None:
        from howdah.jobs.workflow.history import ASIDE

        steps = int(_call(settings, "select count(*) from {}.steps where run_id = %s and step !~ %s", run_id, ASIDE))
    forked = _call(settings, "select run_id from {}.fork_run(%s, %s, %s)", run_id, steps, task)
    kept = f"{steps} step{'' if steps == 1 else 's'}"
    console.print(f"run {forked} goes on after {kept} of run {run_id}; follow it: howdah run watch {forked}")


def _known(run_id: int, status: str) -> None:
    if status == "unknown":
        raise UnknownRun(f"run {run_id} is unknown: it never was, or its history has been removed")


def _call(settings: Settings, query: str, *values: Any) -> Any:
    """The one value of a statement over the operator schema; None where there is no row."""

    async def ask() -> Any:
        conninfo = cell_conninfo(find_database(settings), settings.cell, "howdah-run", pooled=settings.pooled)
        async with await connect(conninfo) as connection:
            statement = SQL(query).format(Identifier(operator_schema(settings.cell)))
            try:
                row = await (await connection.execute(statement, values)).fetchone()
            except psycopg.Error as error:
                raise from_psycopg(error) or error from None
            return row[0] if row else None

    return _run(ask())


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        console.print("left; the run goes on without you", style="dim")
        sys.exit(130)
