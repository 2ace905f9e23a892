"""`howdah run watch` and `show`: a run in the terminal, live or as it is."""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from howdah.app.run_news import News, RunReader
from howdah.app.run_words import Journal, family, heading, hints, now_lines, progress_of
from howdah.app.settings import Settings
from howdah.sql.pool import cell_conninfo, connect, make_pool

# Soon enough that a short run seems to be told as it goes; a run that does nothing is looked at once a second.
FIRST_PAUSE = 0.2
LAST_PAUSE = 1.0
SLOWDOWN = 1.3
# A server that restarts is back within seconds.
PATIENCE_SECONDS = 30.0


class Screen:
    """Where it is told: lines that stay, and in a terminal below them how it stands now."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console = console
        self._live = live
        self._journal = Journal(changes=live)
        self._begun = False
        self._progress: tuple[float, str] | None = None
        self._spinner = Spinner("dots")

    def lines(self, news: News) -> int:
        """Print what is new; how many lines that was."""
        told = self._journal.tell(news)
        if not self._begun:
            self._begun = True
            told = heading(news.run) + told
        self._progress = progress_of(news.events) or self._progress
        for text in told:
            # In a file or a pipe a line stays a line.
            self._console.print(text, soft_wrap=not self._console.is_terminal)
        return len(told)

    def now(self, news: News) -> RenderableType:
        """How it stands; nothing once it is over, but for its family."""
        parts: list[RenderableType] = []
        if not news.over:
            first, *others = now_lines(news) or [Text(news.run.state)]
            if self._live:
                self._spinner.update(text=first)
                parts += [self._spinner, *others]
            else:
                parts += [first, *others, *(Text(f"  {words}", "dim") for words in hints(news.run.id, news.waits))]
        if self._progress is not None and not news.over:
            fraction, note = self._progress
            bar = Table.grid(padding=(0, 1))
            bar.add_row(ProgressBar(total=1, completed=fraction, width=30), f"{fraction:.0%}", Text(note, "dim"))
            parts.append(bar)
        tree = family(news.tree)
        if tree is not None:
            parts.append(tree)
        return Group(*parts)


async def watch(console: Console, settings: Settings, database_url: str, run_id: int) -> bool:
    """Tell a run until it is over; whether it succeeded.

    Raises
    ------
    UnknownRun
        If there is none.
    psycopg.OperationalError
        If the database cannot be reached, or not again within 30 s.
    """
    # What the pool has to say of a server that is away is told below, in a sentence.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    screen = Screen(console, live=True)
    conninfo = await _reachable(settings, database_url)
    async with make_pool(conninfo, max_size=1) as pool:
        reader = RunReader(pool, settings.cell, run_id)
        news = await reader.look()
        screen.lines(news)
        with Live(console=console, auto_refresh=console.is_terminal, refresh_per_second=8, transient=True) as live:
            pause = FIRST_PAUSE
            while not news.over:
                if console.is_terminal:
                    live.update(screen.now(news))
                await asyncio.sleep(pause)
                news = await _look(reader, live, console)
                if news.over:
                    # Before its end is printed, which would come above it.
                    live.update("", refresh=console.is_terminal)
                pause = FIRST_PAUSE if screen.lines(news) else min(pause * SLOWDOWN, LAST_PAUSE)
        if console.is_terminal and any(row.state != "succeeded" for row in news.tree):
            console.print(screen.now(news))
    return news.run.state == "succeeded"


async def show(console: Console, settings: Settings, database_url: str, run_id: int) -> None:
    """Tell a run as it is now; errors as for `watch`."""
    screen = Screen(console, live=False)
    conninfo = await _reachable(settings, database_url)
    async with make_pool(conninfo, max_size=1) as pool:
        news = await RunReader(pool, settings.cell, run_id).look()
    screen.lines(news)
    console.print(screen.now(news), soft_wrap=not console.is_terminal)


async def _reachable(settings: Settings, database_url: str) -> str:
    """Connection string of the cell, once it answers: a pool would only say that it has waited."""
    conninfo = cell_conninfo(database_url, settings.cell, "howdah-run", pooled=settings.pooled)
    async with await connect(conninfo):
        return conninfo


async def _look(reader: RunReader, live: Live, console: Console) -> News:
    give_up = time.monotonic() + PATIENCE_SECONDS
    told = False
    while True:
        try:
            return await reader.look()
        except psycopg.OperationalError as error:
            if time.monotonic() > give_up:
                raise
            if not told:
                told = True
                what = Text(f"the database is away, trying again: {str(error).strip().splitlines()[0]}", "yellow")
                if console.is_terminal:
                    live.update(what)
                else:
                    console.print(what, soft_wrap=True)
            await asyncio.sleep(LAST_PAUSE)
