"""`howdah run …` as a person types it: real processes, a pipe or a terminal, the engine beneath."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from psycopg.sql import SQL, Identifier

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.workflow.calls import NewSignal, RunItem, send_signals
from tests.conftest import Databases
from tests.sql.engine import checkpoint, claim, connect, enqueue, event, outcome, rows, running, value, write
from tests.sql.test_ops_waits import APPROVAL, rest, spawn

SECONDS = 30
CUT = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'howdah-run'"
HOWDAH = [sys.executable, "-m", "howdah.app.cli"]
ERROR = '{"type": "ValueError", "message": "bad", "traceback": "Traceback\\n  line 1\\nValueError: bad"}'


class Watching:
    """A command under way, and what it has printed."""

    def __init__(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._log = log
        self.process = process

    @property
    def text(self) -> str:
        return self._log.read_text()

    def until(self, *words: str) -> None:
        """Return once it has printed all of these."""
        deadline = time.monotonic() + SECONDS
        while any(word not in self.text for word in words):
            assert time.monotonic() < deadline, f"{words} did not come: {self.text}"
            assert self.process.poll() is None or all(word in self.text for word in words), self.text
            time.sleep(0.02)

    def status(self) -> int:
        return self.process.wait(SECONDS)


class Howdah:
    """Runs `howdah run …` on this test's database."""

    def __init__(self, url: str, folder: Path) -> None:
        self.environment = {**os.environ, "DATABASE_URL": url, "HOWDAH_HOME": str(folder), "COLUMNS": "150"}
        self._log = folder / "watch.log"

    def run(self, *arguments: object, status: int = 0) -> str:
        """What a command prints, on either stream, after checking how it ended."""
        command = [*HOWDAH, "run", *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback (most" not in done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def watch(self, run_id: int) -> Iterator[Watching]:
        with self._log.open("wb") as output:
            process = subprocess.Popen([*HOWDAH, "run", "watch", str(run_id)], env=self.environment, stdout=output)
        try:
            yield Watching(self._log, process)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def howdah(database_url: str, tmp_path: Path) -> Howdah:
    return Howdah(database_url, tmp_path)


async def again(connection: Connection, run_id: int) -> ClaimedRun:
    """The next attempt of a run that was woken."""
    (run,) = await claim(connection)
    assert run.id == run_id
    return run


async def test_a_run_is_told_as_it_goes_line_by_line_to_its_end(howdah: Howdah, connection: Connection) -> None:
    (run_id,) = await enqueue(connection, args='{"city": "Köln"}')
    with howdah.watch(run_id) as watching:
        watching.until(f"run {run_id}  t  queue default", 'args {"city": "Köln"}', "no live worker serves its queue")
        run = await again(connection, run_id)
        watching.until("running    attempt 1 on worker worker")
        await write(
            connection,
            checkpoint(run, "measure", '"0123456789"'),
            event(run, "howdah.progress", '{"fraction": 0.5, "note": "half"}'),
            event(run, "howdah.log", '{"message": "warm", "degrees": 31}'),
            event(run, "seen", '{"a": 1}'),
        )
        watching.until("step       measure  ", "12 B", "50%  half", "log        warm  degrees=31", 'seen  {"a": 1}')
        (child,) = await spawn(connection, run, "parts", 1)
        await rest(connection, run, {"children": "parts"})
        watching.until("for the children of step parts", "1 run of c for step parts")
        part = await again(connection, child)
        await write(connection, outcome(part, "failed", ERROR))
        watching.until(f"child      failed {child} c, step parts: ValueError: bad")
        run = await again(connection, run_id)
        await rest(connection, run, APPROVAL)
        watching.until("for the signal approval (approve or reject)", f"howdah run signal {run_id} approval approve")
        assert howdah.run("signal", run_id, "approval", "perhaps", status=1).count("with one of: approve, reject") == 1
        howdah.run("signal", run_id, "approval", "approve")
        watching.until('signal     approval  "approve"')
        run = await again(connection, run_id)
        kept = msgspec.json.encode({"until": "2030-01-01T00:00:00+00:00", "error": "OSError: away"}).decode()
        await write(connection, checkpoint(run, "pay#failed-1", kept), checkpoint(run, "pay#until", '"x"'))
        watching.until("step       pay failed: OSError: away; again 2030-01-01")
        await write(connection, checkpoint(run, "pay"), outcome(run, "retry", ERROR))
        watching.until("attempt 3: ValueError: bad")
        run = await again(connection, run_id)
        await write(connection, outcome(run, body='{"ok": true}'))
        assert watching.status() == 0
        text = watching.text
    assert re.search(r"succeeded  after .* s, 1 failed attempt\n +output +{\"ok\": true}\n$", text)
    assert "pay#until" not in text
    assert text.count("step       measure") == 1
    assert all(re.match(r"\d\d:\d\d:\d\d  | {10}|run ", line) for line in text.splitlines())


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_a_run_that_did_not_succeed_ends_the_watch_with_1_and_its_error(
    howdah: Howdah, connection: Connection, state: str
) -> None:
    (run,) = await running(connection)
    with howdah.watch(run.id) as watching:
        watching.until("running    attempt 1")
        await write(connection, outcome(run, state, ERROR))
        assert watching.status() == 1
        assert f"{state:<11}after" in watching.text
        assert "ValueError: bad\nTraceback\n  line 1\nValueError: bad\n" in watching.text
    assert howdah.run("watch", run.id, status=1).endswith("line 1\nValueError: bad\n"), "also when it has long ended"


async def test_a_watch_goes_on_when_its_connection_is_cut(howdah: Howdah, connection: Connection) -> None:
    (run,) = await running(connection)
    with howdah.watch(run.id) as watching:
        watching.until("running    attempt 1")
        for step in ("a", "b"):
            assert await rows(connection, CUT) == [True]
            await write(connection, checkpoint(run, step))
            watching.until(f"step       {step}  ")
        await write(connection, outcome(run))
        assert watching.status() == 0


async def test_a_watch_outlives_a_database_that_is_away(
    howdah: Howdah, connection: Connection, databases: Databases
) -> None:
    (run,) = await running(connection)
    with howdah.watch(run.id) as watching:
        watching.until("running    attempt 1")
        async with await connect(databases.url("postgres")) as elsewhere:
            name = Identifier(connection.info.dbname)
            await elsewhere.execute(SQL("alter database {} allow_connections false").format(name))
            await rows(connection, CUT)
            watching.until("the database is away, trying again: ")
            await write(connection, checkpoint(run, "a"))
            await elsewhere.execute(SQL("alter database {} allow_connections true").format(name))
        watching.until("step       a  ")
        await write(connection, outcome(run))
        assert watching.status() == 0


async def test_a_terminal_shows_what_is_now_and_keeps_what_was(howdah: Howdah, connection: Connection) -> None:
    (run,) = await running(connection)
    children = await spawn(connection, run, "pages", 30)
    await rest(connection, run, {"children": "pages"})
    await write(connection, outcome((await claim(connection, 1))[0]))
    screen, terminal = pty.openpty()
    environment = {**howdah.environment, "TERM": "xterm"}
    command = [*HOWDAH, "run", "watch", str(run.id)]
    process = subprocess.Popen(command, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    try:
        seen = ""
        while "30 runs below it: 29 queued, 1 succeeded" not in seen or "and 14 more" not in seen:
            seen += os.read(screen, 65536).decode()
        for ended in await claim(connection, 29):
            await write(connection, outcome(ended))
        await write(connection, outcome(await again(connection, run.id), body='"done"'))
        with contextlib.suppress(OSError):  # So ends a terminal whose last program has left.
            while True:
                seen += os.read(screen, 65536).decode()
    finally:
        process.kill()
        os.close(screen)
    assert process.wait() == 0
    assert "waits for the children of step pages" in seen
    assert str(children[5]) in seen
    after = seen.rpartition("succeeded")[2]
    assert "output" in after
    assert "below it" not in after, "what is now is wiped when nothing is any more"


async def test_a_run_is_shown_as_it_is(howdah: Howdah, connection: Connection) -> None:
    (run,) = await running(connection)
    await write(connection, checkpoint(run, "measure"), event(run, "seen"))
    await connection.execute(
        "insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at)"
        " select %s, 'early-' || n, 'default', 1, '1', now(), now() - n * interval '1 s'"
        " from generate_series(1, 200) as n",
        [run.id],
    )
    shown = howdah.run("show", run.id)
    assert "… 101 earlier ones" in shown
    assert shown.count("step       early-") == 99
    assert "running attempt 1 for" in shown
    (child,) = await spawn(connection, run, "parts", 1)
    await rest(connection, run, APPROVAL, {"children": "parts"})
    shown = howdah.run("show", run.id)
    assert "waits for the signal approval (approve or reject)\nwaits for the children of step parts\n" in shown
    assert f"howdah run signal {run.id} approval approve" in shown
    assert f"└── · queued {child} c, step parts" in shown


async def test_a_run_is_acted_on(howdah: Howdah, connection: Connection) -> None:
    (run,) = await running(connection)
    assert "asked to stop" in howdah.run("cancel", run.id)
    await write(connection, checkpoint(run, "a"), checkpoint(run, "b"), checkpoint(run, "b#until"))
    await send_signals(connection, None, [NewSignal(run.id, "go")])
    assert "only failed and cancelled runs can be requeued" in howdah.run("requeue", run.id, status=1)
    await write(connection, outcome(run, "cancelled", ERROR))
    assert "is over" in howdah.run("signal", run.id, "go", status=1)
    assert "nothing to cancel" in howdah.run("cancel", run.id, status=1)
    assert f"run {run.id} is queued again; follow it: howdah run watch {run.id}" in howdah.run("requeue", run.id)
    for arguments, kept in (((), 2), (("--steps", 1, "--task", "other"), 1)):
        said = howdah.run("fork", run.id, *arguments)
        (forked,) = re.findall(rf"run (\d+) goes on after {kept} step.? of run {run.id}", said)
        query = "select count(*) from checkpoint where run_id = %s and step !~ '#'"
        assert await value(connection, query, int(forked)) == kept
    assert await value(connection, "select count(*) from run where task = 'other'") == 1
    assert "has finished 2 steps, and 3 were asked for" in howdah.run("fork", run.id, "--steps", 3, status=1)
    for payload in ('{"a": 1.10}', "text", "NaN"):
        howdah.run("signal", run.id, "go", payload)
    sent = await rows(connection, "select payload from signal where run_id = %s and name = 'go' order by no", run.id)
    assert sent == [None, {"a": 1.1}, "text", "NaN"]


async def test_a_run_that_is_not_there_is_a_sentence(howdah: Howdah) -> None:
    for word in ("watch", "cancel", "fork"):
        assert howdah.run(word, 7, status=1).startswith("howdah: run 7 is unknown"), word
    assert howdah.run("signal", 7, "go", status=1).startswith("howdah: run 7 is unknown")
    assert "'x' is not a valid integer" in howdah.run("watch", "x", status=2)


async def test_an_operator_needs_no_right_on_the_tables(
    howdah: Howdah, connection: Connection, database_url: str
) -> None:
    (run,) = await running(connection)
    await write(connection, RunItem(run.id, run.attempt, "checkpoint", "measure", "1"), event(run, "seen"))
    howdah.environment["DATABASE_URL"] = f"{database_url}?options=-c%20role%3Dhowdah_operator"
    shown = howdah.run("show", run.id)
    assert "step       measure" in shown
    assert "event      seen" in shown
    howdah.run("fork", run.id)
    howdah.run("signal", run.id, "go")
    howdah.run("cancel", run.id)
