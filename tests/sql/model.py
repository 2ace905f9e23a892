"""The engine in a few lines of Python: what each call does to runs, without lanes, locks or indexes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

WAITING = ("queued", "scheduled", "blocked")
LIVE = (*WAITING, "running")
COMPANY = {2: 50, 3: 5}  # suspects that run together, by their deaths
CHANCE = 2  # deaths in company before a run is suspect
ALONE = 3  # deaths alone before it has failed
GRACE = timedelta(seconds=5)  # how long after its deadline a running run is asked to stop


@dataclass
class Run:
    """`order` is what its failure does to its ordered session, None where it is not ordered."""

    id: int
    tenant: str
    queue: str
    task: str
    state: str = "queued"
    priority: int = 0
    session: str | None = None
    order: str | None = None
    unique: str | None = None
    run_at: datetime | None = None
    deadline: datetime | None = None
    fresh: bool = True
    suspect: bool = False
    cancel_requested: bool = False
    attempt: int = 0
    failures: int = 0
    deaths: int = 0
    deaths_alone: int = 0
    worker: int | None = None

    @property
    def line(self) -> tuple[str, str] | None:
        """The ordered session in which it stands."""
        return (self.tenant, self.session) if self.order and self.session else None

    @property
    def place(self) -> tuple[int, bool, int]:
        """Sorts a tenant's queued runs in the order in which they start."""
        return (-self.priority, self.fresh, self.id)


@dataclass
class Queue:
    paused: bool = False
    max_running: int | None = None
    max_running_per_tenant: int | None = None
    starts_per_period: int | None = None
    period_s: int | None = None
    period_began: datetime | None = None
    period_starts: int = 0


@dataclass(frozen=True)
class New:
    """A run to enqueue; times are seconds from now."""

    tenant: str
    queue: str
    task: str
    priority: int
    session: str | None
    order: str | None
    unique: str | None
    key: str | None
    delay: int | None
    deadline: int | None


@dataclass
class Model:
    """`lines`: the runs of each ordered session in their order; the first is the one that the others wait for."""

    now: datetime
    runs: dict[int, Run] = field(default_factory=dict)
    lines: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    keys: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    queues: dict[str, Queue] = field(default_factory=dict)
    workers: dict[int, datetime] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    paused_tenants: set[str] = field(default_factory=set)
    paused_tasks: set[str] = field(default_factory=set)

    # What a claim may take.

    def running(self, queue: str, tenant: str | None = None) -> int:
        return sum(
            run.state == "running" and run.queue == queue and tenant in (None, run.tenant) for run in self.runs.values()
        )

    def eligible(self, queue: str, tasks: Sequence[str] | None, *, suspect: bool = False) -> list[Run]:
        """Queued runs that only a limit could keep from starting, in the order in which they start."""
        return sorted(
            (
                run
                for run in self.runs.values()
                if run.state == "queued"
                and run.queue == queue
                and run.suspect == suspect
                and (tasks is None or run.task in tasks)
                and run.task not in self.paused_tasks
                and run.tenant not in self.paused_tenants
            ),
            key=lambda run: run.place,
        )

    def suspects(self, queue: str, tasks: Sequence[str] | None) -> list[int]:
        """The suspect runs that a worker gets of a queue, by id."""
        waiting = sorted(self.eligible(queue, tasks, suspect=True), key=lambda run: run.id)
        if not waiting:
            return []
        company = COMPANY.get(waiting[0].deaths, 1)
        room = self.room(queue, company)
        if room and self.queues[queue].max_running_per_tenant is not None:
            room = 1
        return [
            run.id
            for run in waiting
            if COMPANY.get(run.deaths, 1) == company and self.tenant_room(queue, run.tenant, 1)
        ][:room]

    def room(self, name: str, wanted: int) -> int:
        """How many runs of a queue may start now."""
        queue = self.queues[name]
        room = 0 if queue.paused else wanted
        if queue.max_running is not None:
            room = min(room, queue.max_running - self.running(name))
        if queue.starts_per_period is not None:
            room = min(room, queue.starts_per_period - (queue.period_starts if self._in_period(queue) else 0))
        return max(room, 0)

    def tenant_room(self, name: str, tenant: str, wanted: int) -> int:
        cap = self.queues[name].max_running_per_tenant
        return wanted if cap is None else max(0, min(wanted, cap - self.running(name, tenant)))

    def _in_period(self, queue: Queue) -> bool:
        if queue.period_began is None or queue.period_s is None:
            return False
        return queue.period_began + timedelta(seconds=queue.period_s) > self.now

    # What happens to runs.

    def enqueue(self, items: Sequence[New], ids: Sequence[int | None]) -> list[str]:
        """Enqueue what the engine, too, should have, under the ids that it gave; the statuses."""
        statuses: list[str] = []
        refused: dict[tuple[str, str], str] = {}  # keys of this batch's runs that were not unique
        promoted = set()  # lines whose first place was taken by a run that was not unique
        for item, run_id in zip(items, ids, strict=True):
            key = (item.tenant, item.key) if item.key else None
            if key and (known := self.keys.get(key)):
                statuses.append("existing" if known[0] == item.task else "conflict")
                continue
            if key and (earlier := refused.get(key)):
                statuses.append("not_unique" if earlier == item.task else "conflict")
                continue
            line = (item.tenant, item.session) if item.order and item.session else None
            if item.unique and any(
                run.tenant == item.tenant and run.unique == item.unique and run.state in WAITING
                for run in self.runs.values()
            ):
                statuses.append("not_unique")
                if key:
                    refused[key] = item.task
                if line and line not in self.lines:
                    promoted.add(line)
                continue
            statuses.append("created")
            assert run_id is not None, f"{item} was not created"
            if key:
                self.keys[key] = (item.task, run_id)
            run = Run(run_id, item.tenant, item.queue, item.task, "queued", item.priority, item.session, item.order)
            run.unique = item.unique
            run.run_at = self._after(item.delay)
            run.deadline = self._after(item.deadline)
            run.fresh = line not in promoted or line in self.lines
            self.runs[run_id] = run
            self._stand_in_line(run)
        return statuses

    def _after(self, seconds: int | None) -> datetime | None:
        return None if seconds is None else self.now + timedelta(seconds=seconds)

    def _stand_in_line(self, run: Run) -> None:
        if run.line is not None:
            line = self.lines.setdefault(run.line, [])
            if run.id not in line:
                line.append(run.id)
            if line[0] != run.id:
                run.state = "blocked"
                return
        self._queue_or_schedule(run, run.run_at)

    def _queue_or_schedule(self, run: Run, at: datetime | None) -> None:
        run.state = "scheduled" if at is not None and at > self.now else "queued"

    def start(self, run_ids: Iterable[int], worker: int) -> None:
        for run in (self.runs[run_id] for run_id in run_ids):
            queue = self.queues[run.queue]
            if queue.starts_per_period is not None:
                if not self._in_period(queue):
                    queue.period_began, queue.period_starts = self.now, 0
                queue.period_starts += 1
            run.state, run.worker, run.run_at, run.unique = "running", worker, None, None
            run.attempt += 1

    def status(self, run_id: int, attempt: int) -> str:
        """What a writer with this attempt is told."""
        run = self.runs[run_id]
        current = run.attempt == attempt and run.worker is not None
        return "ok" if current else "stale"

    def finish(self, run: Run, state: str) -> None:
        run.state = state
        run.failures += state == "failed"
        if run.line is None or (line := self.lines.get(run.line)) is None or run.id not in line:
            return
        if line[0] != run.id:
            line.remove(run.id)
        elif not (state == "failed" and run.order == "block"):
            self._advance(run)

    def _advance(self, head: Run) -> None:
        assert head.line is not None
        line = self.lines[head.line]
        line.remove(head.id)
        if not line:
            del self.lines[head.line]
            return
        following = self.runs[line[0]]
        following.fresh = False
        self._queue_or_schedule(following, following.run_at)

    def come_back(self, run: Run, at: datetime | None = None) -> None:
        """An attempt ended, and the run goes on: later, or not at all where somebody asked to stop it."""
        self._queue_or_schedule(run, at)
        run.run_at = at if run.state == "scheduled" else None
        run.fresh, run.worker = False, None
        if run.cancel_requested:
            late = run.deadline is not None and run.deadline <= self.now
            self.finish(run, "failed" if late else "cancelled")

    def outcome(self, run: Run, name: str, at: datetime | None) -> None:
        if name in ("succeeded", "failed", "cancelled"):
            self.finish(run, name)
            return
        run.suspect = False
        run.failures += name == "retry"
        self.come_back(run, at)

    def cancel(self, run_ids: Sequence[int]) -> dict[int, str]:
        answers = {}
        for run in (self.runs[run_id] for run_id in run_ids):
            if run.state == "running":
                run.cancel_requested = True
                answers[run.id] = "requested"
            elif run.state in LIVE:
                answers[run.id] = "cancelled"
            else:
                answers[run.id] = "finished"
        for run_id in run_ids:
            if answers[run_id] == "cancelled":
                self.finish(self.runs[run_id], "cancelled")
        return answers

    def requeue(self, run_ids: Iterable[int]) -> dict[int, str]:
        answers = {}
        for run in (self.runs[run_id] for run_id in sorted(run_ids)):
            if run.state in LIVE:
                answers[run.id] = "live"
            elif run.state == "succeeded":
                answers[run.id] = "succeeded"
            else:
                answers[run.id] = "requeued"
                run.fresh = run.suspect = run.cancel_requested = False
                run.failures = run.deaths = run.deaths_alone = 0
                run.run_at = run.deadline = run.unique = run.worker = None
                self._stand_in_line(run)
        return answers

    def discard(self, run_ids: Iterable[int]) -> dict[int, str]:
        answers = {}
        for run in (self.runs[run_id] for run_id in run_ids):
            answers[run.id] = "live" if run.state in LIVE else "discarded" if run.state == "failed" else "finished"
        for run in (self.runs[run_id] for run_id, answer in answers.items() if answer == "discarded"):
            run.state = "cancelled"
            if run.line is not None and run.id in self.lines.get(run.line, ()):
                self._advance(run)
        return answers

    def change(
        self, run_ids: Iterable[int], priority: int | None, queue: str | None, at: datetime | None
    ) -> dict[int, str]:
        answers = {}
        for run in (self.runs[run_id] for run_id in run_ids):
            if run.state not in WAITING:
                answers[run.id] = "started" if run.state == "running" else "finished"
                continue
            answers[run.id] = "changed"
            run.fresh = False
            run.priority = run.priority if priority is None else priority
            run.queue = queue or run.queue
            if at is not None and run.state == "blocked":
                run.run_at = at
            elif at is not None:
                self._queue_or_schedule(run, at)
                run.run_at = at if run.state == "scheduled" else None
        return answers

    # What time does.

    def wake(self) -> int:
        due = [run for run in self.runs.values() if run.state == "scheduled" and run.run_at and run.run_at <= self.now]
        for run in due:
            run.state, run.fresh = "queued", False
        return len(due)

    def expire(self) -> int:
        """A run for which its session would wait fails when it is its turn: what comes after it must not start."""
        late = [
            run
            for run in self.runs.values()
            if run.state in LIVE
            and run.deadline is not None
            and run.deadline <= self.now
            and not run.cancel_requested
            and not (run.state == "blocked" and run.order == "block")
        ]
        asked = [run for run in late if run.state == "running" and run.deadline and run.deadline <= self.now - GRACE]
        for run in asked:
            run.cancel_requested = True
        idle = [run for run in late if run.state != "running"]
        for run in idle:
            self.finish(run, "failed")
        return len(asked) + len(idle)

    def rescue(self, stale: timedelta) -> tuple[int, int]:
        dead = {worker for worker, heartbeat in self.workers.items() if heartbeat < self.now - stale}
        lost = [run for run in self.runs.values() if run.state == "running" and run.worker in dead]
        for run in lost:
            run.deaths_alone += run.suspect and run.deaths not in COMPANY
            run.deaths += 1
            run.suspect = run.deaths >= CHANCE
            if run.deaths_alone >= ALONE:
                run.worker = None
                self.finish(run, "failed")
            else:
                self.come_back(run)
        for worker in dead:
            del self.workers[worker]
        return len(dead), len(lost)

    def leave(self, worker: int) -> int:
        left = [run for run in self.runs.values() if run.state == "running" and run.worker == worker]
        for run in left:
            self.come_back(run)
        del self.workers[worker]
        return len(left)
