"""`/v1/workers`: workers in any language: register, say that they live, claim, write, leave; for administrators.

A claim takes the runs of all tenants, by whose turn it is, and a registration says for all what a task takes: there is
no form of either that would be one tenant's own. Each request calls the functions that Howdah's own worker calls.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from litestar import Controller, Request, delete, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter

from howdah.app.api.auth import require_admin
from howdah.app.api.bodies import JsonBody, JsonItems, decode_body
from howdah.app.api.new_runs import NAME
from howdah.app.api.problems import RETRY_AFTER, FieldError, Refused
from howdah.app.api.worker_items import ItemBatch, ItemResults, SentSignal, sent_signals, write_items
from howdah.app.composition import Resources
from howdah.app.run_waiter import TooManyWaiters
from howdah.sql.errors import StaleAttempt
from howdah.sql.pool import Connection
from howdah.sql.queue import calls
from howdah.sql.workflow.calls import RunItem, read_checkpoints, read_signals

# A claim's answer holds every finished step of its runs, up to 1 MiB each.
MAX_CLAIM = 100
# Below the idle limit of usual proxies.
MAX_WAIT = 60.0
MAX_QUEUES, MAX_TASKS = 100, 1000
# Seconds between looks while a claim waits; hints wake it sooner.
POLL_FROM, POLL_TO = 0.05, 1.0

WorkerId = Annotated[str, PathParameter(description="The worker's id.", max_length=40)]
Queue = Annotated[str, msgspec.Meta(pattern=NAME)]


class TaskOfWorker(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A task that the worker can run; `name@2` is the second version of `name`. `args_schema` is a JSON schema."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    kind: Literal["task", "workflow"] = "workflow"
    queue: Queue
    args_schema: Annotated[msgspec.Raw, msgspec.Meta(description="A JSON schema, as an object.")] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"{}")
    )
    description: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class NewWorker(msgspec.Struct, forbid_unknown_fields=True):
    """A worker that comes: its `name` for people, the queues that it serves, the tasks that it can run."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    queues: Annotated[list[Queue], msgspec.Meta(min_length=1, max_length=MAX_QUEUES)]
    tasks: Annotated[list[TaskOfWorker], msgspec.Meta(min_length=1, max_length=MAX_TASKS)]


class RegisteredWorker(msgspec.Struct, frozen=True):
    """Say that you live every `heartbeat_s` seconds: after `rescue_s` of silence your runs are others'."""

    id: str
    heartbeat_s: float
    rescue_s: float


class HeartbeatAnswer(msgspec.Struct, frozen=True):
    """What others ask of the worker. Not `alive`: it was given up, all its attempts are over; register again.

    `cancelled`: its runs to stop. `draining`: claim nothing more, finish, leave. `suspects`: runs wait that took their
    workers along; claim them with `suspects`, when nothing else runs on this worker."""

    alive: bool
    cancelled: list[str]
    draining: bool
    suspects: bool


class Claim(msgspec.Struct, forbid_unknown_fields=True):
    """What to claim: up to `limit` runs, waiting up to `wait` seconds for the first. `suspects`: those first that the
    heartbeat told of; nothing else may run on this worker, nor be claimed until they have ended."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLAIM)] = 1
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT)] = 0
    suspects: bool = False


class ClaimedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that this worker has now; `attempt` goes with all that it writes of it.

    `steps` are those that earlier attempts have finished, with their outputs; `signals` are all that came."""

    id: str
    tenant: str
    queue: str
    task: str
    args: msgspec.Raw
    attempt: int
    failures: int
    session: str | None
    retry: msgspec.Raw | None
    deadline: datetime | None
    steps: dict[str, msgspec.Raw]
    signals: list[SentSignal]


class ClaimedRuns(msgspec.Struct, frozen=True):
    """The runs; none if none came in time, or the worker is `draining`."""

    runs: list[ClaimedRun]
    draining: bool


class Left(msgspec.Struct, frozen=True):
    """How many runs went back to their queues."""

    released: int


class WorkerController(Controller):
    """Workers."""

    path = "/v1/workers"
    tags = ("workers",)
    guards = (require_admin,)

    @post(dto=JsonBody[NewWorker])
    async def register_worker(
        self, data: JSONBody[NewWorker], resources: NamedDependency[Resources]
    ) -> RegisteredWorker:
        """Register a worker and its tasks. Of a task that is known already, this is what holds from now on."""
        entries = [_entry(task, f"/tasks/{index}") for index, task in enumerate(data.tasks)]
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _unfit("/tasks", f"task {twice!r} is there twice: name each once")
        async with resources.pool.connection() as connection, connection.transaction():
            await calls.register_tasks(connection, entries)
            worker_id = await calls.register_worker(connection, data.name, data.queues, names)
        settings = resources.settings
        return RegisteredWorker(str(worker_id), settings.heartbeat_seconds, settings.rescue_seconds)

    @post("/{worker_id:str}/heartbeat", status_code=200)
    async def heartbeat(self, worker_id: WorkerId, resources: NamedDependency[Resources]) -> HeartbeatAnswer:
        """Say that the worker lives, and learn what others ask of it. Runs of silent workers go back meanwhile."""
        number = _parse_worker_id(worker_id)
        rescue = timedelta(seconds=resources.settings.rescue_seconds)
        async with resources.pool.connection() as connection:
            before = await calls.read_registration(connection, number)
            heard = await calls.heartbeat(connection, number)
            # Who was silent itself leaves its peers the time to speak: the database was away for them as well.
            if before is not None and before.silent_for < rescue / 2:
                await calls.rescue_runs(connection, rescue)
        return HeartbeatAnswer(heard.alive, [str(run) for run in heard.cancelled], heard.draining, heard.suspects)

    @post("/{worker_id:str}/claim", status_code=200, dto=JsonBody[Claim])
    async def claim_runs(
        self,
        worker_id: WorkerId,
        data: JSONBody[Claim],
        request: Request[Any, Any, State],
        resources: NamedDependency[Resources],
    ) -> ClaimedRuns:
        """Claim runs of the worker's queues and tasks, of all tenants by whose turn it is.

        One claim at a time; heartbeats go on meanwhile. When an answer is lost, leave and register again: so the runs
        that it brought go back at once, instead of waiting for a worker that does not know of them."""
        number = _parse_worker_id(worker_id)
        async with resources.pool.connection() as connection:
            registered = await _registration(connection, number)
        try:
            waiting = nullcontext(asyncio.Event()) if data.wait == 0 else resources.claims.waiting(registered.queues)
            with waiting as hint:
                return await _claim(number, data, hint, request, resources)
        except TooManyWaiters as error:
            raise Refused(503, "too-many-waiters", f"{error}; ask without wait", headers=RETRY_AFTER) from error

    @post("/{worker_id:str}/items", status_code=200, dto=JsonItems[ItemBatch])
    async def write_items(
        self, worker_id: WorkerId, data: JSONBody[list[bytes]], resources: NamedDependency[Resources]
    ) -> ItemResults:
        """Write up to 1,000 checkpoints, events and outcomes, on disk when this answers. See each item's status.

        The same item again, by the same attempt, changes nothing: where an answer was lost, send it again. A bad item
        fails alone with what follows it of its run."""
        _parse_worker_id(worker_id)
        return await write_items(data, resources)

    @delete("/{worker_id:str}", status_code=200)
    async def unregister_worker(self, worker_id: WorkerId, resources: NamedDependency[Resources]) -> Left:
        """Leave: what the worker has not finished goes back to its queues at once. Twice is as once."""
        async with resources.pool.connection() as connection:
            return Left(await calls.unregister_worker(connection, _parse_worker_id(worker_id)))


async def _claim(
    worker_id: int, data: Claim, hint: asyncio.Event, request: Request[Any, Any, State], resources: Resources
) -> ClaimedRuns:
    """Claim until there is something, the time is over, or nobody waits for the answer any longer."""
    gone = asyncio.create_task(_client_gone(request, hint))
    clock = asyncio.get_running_loop().time
    until, pause = clock() + data.wait, POLL_FROM
    try:
        while True:
            hint.clear()
            found, next_at = await _claim_once(worker_id, data, gone, resources)
            left = until - clock()
            if found.runs or found.draining or left <= 0 or gone.done() or resources.claims.released:
                return found
            if next_at is not None:
                pause = min(pause, max(0.01, (next_at - datetime.now(UTC)).total_seconds()))
            try:
                await asyncio.wait_for(hint.wait(), min(left, pause))
            except TimeoutError:
                pause = min(pause * 2, POLL_TO)
    finally:
        gone.cancel()


async def _claim_once(
    worker_id: int, data: Claim, gone: asyncio.Task[None], resources: Resources
) -> tuple[ClaimedRuns, datetime | None]:
    """What there is to claim now, and when the next run is due."""
    async with resources.pool.connection() as connection:
        registered = await _registration(connection, worker_id)
        if registered.draining:
            return ClaimedRuns([], draining=True), None
        _, next_at = await calls.wake_due_runs(connection)
        # A claim fills up from the first queue on: each gets its turn to be that.
        queues = random.sample(registered.queues, len(registered.queues))
        claimed: list[calls.ClaimedRun] = []
        if data.suspects:
            claimed = await calls.claim_suspects(connection, worker_id, queues, registered.tasks, data.limit)
        if not claimed:
            claimed = await calls.claim_runs(connection, worker_id, queues, data.limit, registered.tasks)
        try:
            runs = await _with_history(connection, claimed)
            if gone.done():
                raise ConnectionResetError(f"worker {worker_id} waits no longer")  # noqa: TRY301
        except BaseException as error:
            # Nobody will hear of them: they go back, and nothing of it counts as a death.
            for run in claimed:
                resources.run_items.add(RunItem(run.id, run.attempt, "outcome", "release"))
            if isinstance(error, ConnectionResetError):
                return ClaimedRuns([], draining=False), None
            raise
    return ClaimedRuns(runs, draining=False), next_at


async def _with_history(connection: Connection, claimed: list[calls.ClaimedRun]) -> list[ClaimedRun]:
    """The runs with what earlier attempts finished, and the signals that came."""
    if not claimed:
        return []
    ids = [run.id for run in claimed]
    steps: dict[int, dict[str, msgspec.Raw]] = {}
    for kept in await read_checkpoints(connection, ids):
        steps.setdefault(kept.run_id, {})[kept.step] = _raw(kept.output or "null")
    signals = sent_signals(await read_signals(connection, ids))
    return [
        ClaimedRun(
            id=str(run.id),
            tenant=run.tenant_id,
            queue=run.queue,
            task=run.task,
            args=_raw(run.args),
            attempt=run.attempt,
            failures=run.failures,
            session=run.session_id,
            retry=None if run.retry is None else _raw(run.retry),
            deadline=run.deadline,
            steps=steps.get(run.id, {}),
            signals=signals.get(run.id, []),
        )
        for run in claimed
    ]


async def _client_gone(request: Request[Any, Any, State], hint: asyncio.Event) -> None:
    """Return, and set `hint`, once the client has hung up: what would be claimed for it would wait for its rescue."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    hint.set()


async def _registration(connection: Connection, worker_id: int) -> calls.Registration:
    registered = await calls.read_registration(connection, worker_id)
    if registered is None:
        raise StaleAttempt(f"worker {worker_id} is not registered, or its peers have given it up: register again")
    return registered


def _entry(task: TaskOfWorker, where: str) -> calls.TaskEntry:
    schema: Any = decode_body(bytes(task.args_schema), dict[str, Any], f"{where}/args_schema")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise _unfit(f"{where}/args_schema", f"no JSON schema: {error.message[:300]}") from None
    return calls.TaskEntry(task.name, task.kind, task.queue, bytes(task.args_schema).decode(), task.description)


def _unfit(pointer: str, detail: str) -> Refused:
    return Refused(422, "invalid-request", f"{pointer}: {detail}", errors=[FieldError(detail, pointer)])


def _parse_worker_id(text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) < 1 << 63:
        return int(text)
    raise Refused(404, "unknown-worker", f"worker {text[:40]!r} is unknown: a worker's id is a whole number")


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())
