"""Whatever befalls a worker at whatever point, the run ends as if nothing had: each point of a workflow that uses all.

By default one of each kind of point; `make crashes` strikes at each, and HOWDAH_CRASH_MATRIX=17,180 at these two.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from howdah.sql.pool import Connection, cell_conninfo, connect
from howdah.sql.queue.calls import NewRun, enqueue_runs
from howdah.sql.schema import install
from howdah.sql.stream.calls import NewEvent, append_events
from howdah.sql.workflow.calls import NewSignal, send_signals
from tests.chaos.server import Server, tormented_server
from tests.jobs.crash_worker import Blow, Strike, work
from tests.sql.engine import rows, value

MATRIX = os.environ.get("HOWDAH_CRASH_MATRIX", "")
ALL = MATRIX == "all"
# How many points are struck where one of each kind would take too long.
EVERY = {"freeze": 6, "restart": 3}
AT_ONCE = 4
PATIENCE = 60.0  # seconds for one run
SIGNALS = {"late": "late", "approval": "yes", "beside": "beside"}
# A fresh process in 20 ms: its parent has imported everything.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.jobs.crash_worker"])

pytestmark = pytest.mark.long


@dataclass
class End:
    """What is to be the same, whatever befell the run."""

    state: str
    output: Any
    other: list[Any]
    steps: dict[str, Any]
    events: list[tuple[str, str, Any]]
    paid: list[int]
    effects: set[str]


@dataclass
class Trial:
    """One run, and the workers that it takes."""

    conninfo: str
    strike: Strike
    server: Server | None = None
    processes: list[BaseProcess] = field(default_factory=list)
    run_id: int = 0
    other_id: int = 0

    def start(self, strike: Strike) -> BaseProcess:
        process = FORKS.Process(target=work, args=(strike,), daemon=True)
        process.start()
        self.processes.append(process)
        return process

    async def run(self) -> End:
        """Until the run has ended, however often its worker must be replaced."""
        try:
            async with asyncio.timeout(PATIENCE), self.connection() as connection:
                await self._enqueue(connection)
            victim = self.start(self.strike)
            replaced = False
            async with asyncio.timeout(PATIENCE):
                while not await self._ended():
                    struck = not victim.is_alive() or _is_stopped(victim)
                    if struck and not replaced:
                        await self._replace(victim)
                        replaced = True
                    await asyncio.sleep(0.02)
            if self.strike.blow == "freeze" and replaced and self.server is None:
                await self._wake(victim)
            async with self.connection() as connection:
                return await self._end(connection)
        except TimeoutError:
            async with self.connection() as connection:
                stuck = await rows(
                    connection, "select id, task, state, attempt, awaits from run where queue = %s", self.queue
                )
            raise AssertionError(f"{self}: not ended after {PATIENCE} s: {stuck}\n{self.log()}") from None
        finally:
            for process in self.processes:
                process.kill()
                process.join()

    @property
    def queue(self) -> str:
        return self.strike.queue

    def log(self) -> str:
        path = self.strike.diary.with_suffix(".log")
        return path.read_text()[-5000:] if path.exists() else ""

    def struck(self) -> str | None:
        """Where the strike fell; None: the worker never came so far."""
        found = re.search(r"^\*\d+ (.*)$", self.strike.diary.read_text(), re.MULTILINE)
        return None if found is None else found[1]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        opened = await connect(self.conninfo)
        try:
            yield opened
        finally:
            await opened.close()

    async def _enqueue(self, connection: Connection) -> None:
        await connection.execute("select from create_session('default', %s)", [self.queue])
        (enqueued,) = await enqueue_runs(connection, [NewRun("default", "other", queue=self.queue)])
        self.other_id = enqueued.run_id or 0
        args = msgspec.json.encode({"queue": self.queue, "other": self.other_id}).decode()
        new = NewRun("default", "everything", args, queue=self.queue, session_id=self.queue)
        (enqueued,) = await enqueue_runs(connection, [new])
        self.run_id = enqueued.run_id or 0
        await send_signals(connection, None, [NewSignal(self.run_id, "early", '"early"')])
        for number in (1, 2):
            await append_events(connection, [NewEvent("default", self.queue, "message", str(number))])

    async def _ended(self) -> bool:
        """Whether both runs have ended; what they wait for is sent."""
        try:
            async with self.connection() as connection:
                awaited = await rows(
                    connection, "select awaits from run where id = %s and state = 'waiting'", self.run_id
                )
                for what in awaited[0] if awaited else []:
                    if (name := what.get("signal")) in SIGNALS:
                        body = msgspec.json.encode(SIGNALS[name]).decode()
                        await send_signals(connection, None, [NewSignal(self.run_id, name, body, key=name)])
                    if "events" in what:
                        await append_events(connection, [NewEvent("default", self.queue, "message", "3", key="third")])
                if await rows(
                    connection, "select from run_history where id = %s and state <> 'succeeded'", self.run_id
                ):
                    return True
                both = [self.run_id, self.other_id]
                return bool(await value(connection, "select count(*) = 2 from run_history where id = any (%s)", both))
        except psycopg.OperationalError:
            if self.server is None:
                raise
            return False

    async def _replace(self, victim: BaseProcess) -> None:
        if self.server is not None:
            await asyncio.to_thread(self.server.crash)
            os.kill(victim.pid or 0, signal.SIGCONT)
            return
        async with self.connection() as connection:
            await connection.execute(
                "update worker set heartbeat_at = '-infinity' where name = %s", [f"{self.queue}/{victim.pid}"]
            )
            await connection.execute("select from rescue_runs('1 hour')")
        self.start(Strike(self.strike.conninfo, self.queue, self.strike.diary.with_suffix(".second")))

    async def _wake(self, zombie: BaseProcess) -> None:
        """Let a worker go on that slept through all of it, until it knows: it then has registered again."""
        async with self.connection() as connection:
            before = await self._end(connection)
            os.kill(zombie.pid or 0, signal.SIGCONT)
            name = f"{self.queue}/{zombie.pid}"
            while not await value(connection, "select exists (select from worker where name = %s)", name):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
            assert await self._end(connection) == before, "a worker that was given up has changed something"

    async def _end(self, connection: Connection) -> End:
        ((state, output, error),) = await rows(
            connection, "select state, output, error from run_history where id = %s", self.run_id
        )
        steps = await rows(
            connection,
            "select step, output, attempt, repeats from checkpoint where run_id = %s and step not like '%%#outputs-%%'",
            self.run_id,
        )
        assert [step for step, _, _, repeats in steps if repeats] == [], "steps that were finished ran again"
        events = await rows(
            connection, "select seq, key, type, data from event where session_id = %s order by seq", self.queue
        )
        assert [seq for seq, *_ in events] == list(range(1, len(events) + 1))
        late = await rows(
            connection,
            "select e.what, e.at, c.finished_at from public.effect as e join checkpoint as c"
            " on c.run_id = e.run_id and c.step = e.what"
            " where e.run_id = %s and e.at > c.finished_at and e.attempt > c.attempt",
            self.run_id,
        )
        assert late == [], "a step was executed after its output was on disk"
        return End(
            state,
            output if error is None else error,
            await rows(connection, "select output from run_history where id = %s", self.other_id),
            # A failure that was not kept in time is none: the step is just called again.
            {step: _comparable(step, output) for step, output, _, _ in steps if "#failed-" not in step},
            sorted((_key(key), type_, str(data)) for _, key, type_, data in events),
            await rows(connection, "select amount from public.paid where run_id = %s", self.run_id),
            set(await rows(connection, "select what from public.effect where run_id = %s", self.run_id)),
        )


def _comparable(step: str, output: Any) -> Any:
    """What does not depend on the time, nor on which ids children got."""
    if re.search("#(children|until)", step):
        return "…"
    if isinstance(output, str) and re.match(r"\d{4}-\d\d-\d\dT", output):
        return "…"
    return "…" if step == "thread" else output


def _key(key: str | None) -> str:
    return "" if key is None else re.sub(r"outcome/\d+$", "outcome", key.partition("/")[2])


def _is_stopped(process: BaseProcess) -> bool:
    try:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return False


@pytest.fixture
def prepared(conninfo: str, db: psycopg.Connection) -> str:
    """A database with tables for what steps do to the world."""
    _prepare(db)
    return conninfo


def _prepare(db: psycopg.Connection) -> None:
    db.execute(
        "create table public.effect"
        " (run_id bigint, what text, attempt integer, at timestamptz default clock_timestamp())"
    )
    db.execute("create table public.paid (run_id bigint, amount integer)")


@pytest.fixture(scope="module")
def crashing_server() -> Iterator[Server]:
    """A server of this test's own, durable as in production."""
    with tormented_server() as server:
        if server.ours is None:
            pytest.skip("DATABASE_URL names a server that is not ours to crash")
        with psycopg.connect(server.url) as opened:
            install(opened)
            _prepare(opened)
        yield server


async def undisturbed(conninfo: str, folder: Path, blow: Blow) -> tuple[End, list[str]]:
    """How the run ends by itself, and the points that it passes."""
    # Of a blow that never falls: what counts as a point depends on it.
    trial = Trial(conninfo, Strike(conninfo, f"{blow}-none", folder / f"{blow}-none", blow))
    end = await trial.run()
    assert end.state == "succeeded", f"{end.output}\n{trial.log()}"
    return end, [line.split(maxsplit=1)[1] for line in trial.strike.diary.read_text().splitlines()]


def sample(points: list[str], kind: str) -> list[int]:
    """Numbers of the points to strike at: one of each kind of point, spread over the run, unless all are."""
    if MATRIX not in {"", "all"}:
        return [int(point) for point in MATRIX.split(",")]
    if ALL and kind != "restart":
        return list(range(1, len(points) + 1))
    if kind in EVERY:
        every = len(points) // (EVERY[kind] * (10 if ALL else 1))
        return list(range(every, len(points) + 1, every))
    of_kind = {label: [number for number, other in enumerate(points, 1) if other == label] for label in points}
    return sorted(numbers[place % len(numbers)] for place, numbers in enumerate(of_kind.values()))


@pytest.mark.parametrize("blow", ["kill", "cut", "lose", "freeze"])
async def test_a_blow_at_any_point_changes_nothing(prepared: str, tmp_path: Path, blow: Blow) -> None:
    """Killed; all its connections cut; an answer lost after its commit; frozen, given up, and awake again."""
    expected, points = await undisturbed(prepared, tmp_path, blow)
    slots = asyncio.Semaphore(AT_ONCE)
    wrong: list[str] = []
    struck: Counter[str] = Counter()

    async def strike_at(point: int) -> None:
        name = f"{blow}-{point}"
        trial = Trial(prepared, Strike(prepared, name, tmp_path / name, blow, point))
        async with slots:
            try:
                end = await trial.run()
                if end != expected:
                    wrong.append(f"{name} ({trial.struck()}):\n{_difference(expected, end)}\n{trial.log()}")
            except Exception as error:
                wrong.append(f"{name} ({trial.struck()}): {error!r}")
        struck[trial.struck() or "never"] += 1

    await asyncio.gather(*(strike_at(point) for point in sample(points, blow)))
    print(f"{blow}: {len(points)} points, struck at {sum(struck.values())}:", dict(struck))
    assert not wrong, f"{len(wrong)} of {sum(struck.values())} runs ended otherwise:\n" + "\n".join(wrong[:5])
    assert struck["never"] <= len(sample(points, blow)) // 4, struck


async def test_a_crash_of_postgres_at_any_point_changes_nothing(crashing_server: Server, tmp_path: Path) -> None:
    conninfo = cell_conninfo(crashing_server.url)
    expected, points = await undisturbed(conninfo, tmp_path, "freeze")
    for point in sample(points, "restart"):
        name = f"restart-{point}"
        trial = Trial(conninfo, Strike(conninfo, name, tmp_path / name, "freeze", point), crashing_server)
        end = await trial.run()
        assert end == expected, f"{name} ({trial.struck()}):\n{_difference(expected, end)}\n{trial.log()}"


def _difference(expected: End, end: End) -> str:
    names = [name for name in End.__dataclass_fields__ if getattr(expected, name) != getattr(end, name)]
    return "\n".join(f"{name}: {getattr(end, name)}\n instead of {getattr(expected, name)}" for name in names)
