"""Runs to create, as a request gives them: read, checked against their task's schema, and answered."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import decode_body
from howdah.app.api.metrics import Metrics
from howdah.app.api.problems import FieldError, Problem, Refused, problem_of
from howdah.app.api.run_reads import Run, RunSummary, created_at, find_run
from howdah.app.composition import Resources
from howdah.app.task_registry import RegisteredTask
from howdah.jobs.retry import RetryStrategy, override_json
from howdah.sql.errors import HowdahError, IdempotencyConflict, NotUnique, QueueFull, UnknownTenant
from howdah.sql.json_values import checked
from howdah.sql.queue.calls import Enqueued, NewRun, OnFailure

# One transaction's worth; a client with more sends several.
MAX_BATCH = 1000
# Seconds. A key is a row until its window is over; a month is longer than any client tries.
MAX_WINDOW = 30 * 86_400
# Seconds. A run that should wait for more than a year after a failure is a mistake.
MAX_PAUSE = 365 * 86_400

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$(?!\n)"
SESSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)"
MAX_KEY = 255
# What an Idempotency-Key header may hold: what is visible in ASCII.
KEY_CHARACTERS = r"^[\x21-\x7e]+$"
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY)]
Priority = Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000, description="Higher first.")]


class Retry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When this run is tried again after a failure, in place of its task's own strategy.

    The wait is ``wait + linear_wait × failures + exponential_wait ** (failures + 1)`` seconds, at most `max_wait`, then
    lengthened at random by up to `jitter` of it. `max_attempts` left out: as often as it takes."""

    max_attempts: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    wait: Annotated[int, msgspec.Meta(ge=0, le=MAX_PAUSE)] = 0
    linear_wait: Annotated[int, msgspec.Meta(ge=0, le=MAX_PAUSE)] = 0
    exponential_wait: Annotated[int, msgspec.Meta(ge=0, le=60)] = 0
    max_wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_PAUSE)] | None = None
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class NewRunBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A run to create. `queue` left out: the task's own. `run_at` in the future: not before. `unique_key`: refused
    while another run with it is queued.

    `order` makes it one of its session's ordered runs, which go one at a time in the order in which they were created;
    when it fails for good, those behind it go on (`skip`) or wait until it is requeued or discarded (`block`). With a
    `deadline`, it has failed if it has not ended by then. `idempotency_window_s`: how long its idempotency key is
    remembered; left out: a day."""

    task: Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["invoice.send"])]
    args: Annotated[
        msgspec.Raw, msgspec.Meta(description="An object that fits the task's schema.", examples=[{"id": 7}])
    ] = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    queue: Annotated[str, msgspec.Meta(pattern=NAME)] | None = None
    priority: Priority = 0
    run_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    session: Annotated[str, msgspec.Meta(pattern=SESSION)] | None = None
    unique_key: Key | None = None
    order: OnFailure | None = None
    deadline: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    retry: Retry | None = None
    idempotency_window_s: Annotated[float, msgspec.Meta(ge=1, le=MAX_WINDOW)] | None = None


class BatchItem(NewRunBody, kw_only=True, forbid_unknown_fields=True):
    """As for one run, with its idempotency key beside it."""

    idempotency_key: Key | None = None


class RunBatch(msgspec.Struct):
    """Runs to create together."""

    runs: Annotated[list[BatchItem], msgspec.Meta(max_length=MAX_BATCH)]


class BatchResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the item at `index`: its `run` (201 new, 200 there already), or a `problem`."""

    index: int
    status: int
    run: RunSummary | None = None
    problem: Problem | None = None


class BatchResults(msgspec.Struct, frozen=True):
    """One result an item, in order."""

    items: list[BatchResult]


async def create_run(
    data: NewRunBody,
    caller: Caller,
    key: str | None,
    resources: Resources,
    metrics: Metrics,
    traceparent: str | None,
) -> tuple[Run, int, dict[str, str]]:
    """Create a run, whichever way the request came: the run that there is now, the status and the headers to answer."""
    new = await checked_run(data, caller.tenant(), key, resources, traceparent)
    enqueued = await resources.enqueuer.submit(new)
    metrics.enqueued(enqueued.status)
    run_id = accepted_id(new, enqueued)
    if must_be_read(new, enqueued):
        run = await find_run(resources.engine, new.tenant_id, run_id)
    else:
        run = Run(**summary_fields(new, run_id, enqueued.task), args=msgspec.Raw(new.args.encode()))
    return run, 200 if enqueued.status == "existing" else 201, {"Location": f"/v1/runs/{run_id}"}


async def checked_run(
    data: NewRunBody,
    tenant_id: str,
    key: str | None,
    resources: Resources,
    traceparent: str | None,
    where: str = "",
) -> NewRun:
    """The run to enqueue, once its task is known and its arguments fit."""
    task, text = await checked_args(data.task, bytes(data.args), resources, where)
    if data.order is not None and data.session is None:
        raise _needs(f"{where}/order", "an ordered run is one of a session's: name the session")
    if data.idempotency_window_s is not None and key is None:
        raise _needs(f"{where}/idempotency_window_s", "it is the window of an idempotency key: send one")
    return NewRun(
        tenant_id=tenant_id,
        task=data.task,
        args=text,
        queue=data.queue or task.queue,
        priority=data.priority,
        run_at=data.run_at,
        session_id=data.session,
        idempotency_key=key,
        unique_key=data.unique_key,
        order=data.order,
        deadline=data.deadline,
        retry=None if data.retry is None else override_json(RetryStrategy(**msgspec.structs.asdict(data.retry))),
        key_window=None if data.idempotency_window_s is None else timedelta(seconds=data.idempotency_window_s),
        traceparent=traceparent,
    )


def _needs(pointer: str, detail: str) -> Refused:
    return Refused(422, "invalid-request", f"{pointer}: {detail}", errors=[FieldError(detail, pointer)])


async def checked_args(name: str, raw: bytes, resources: Resources, where: str = "") -> tuple[RegisteredTask, str]:
    """The task of this name, and the arguments as JSON text, once they fit it."""
    text = checked(raw, f"{where}/args")
    task = await resources.tasks.find(name)
    args: Any = decode_body(raw, dict[str, Any], f"{where}/args")
    errors = [FieldError(message, f"{where}/args{pointer}") for pointer, message in task.errors(args)]
    if errors:
        detail = f"the arguments do not fit task {name!r}: {errors[0].pointer}: {errors[0].detail}"
        raise Refused(422, "invalid-arguments", detail, title="Invalid arguments", errors=errors)
    return task, text


def accepted_id(new: NewRun, enqueued: Enqueued) -> int:
    """The id of the run that there is now, or the refusal as an error."""
    if enqueued.run_id is not None:
        return enqueued.run_id
    if enqueued.status == "conflict":
        raise IdempotencyConflict(
            f"idempotency key {new.idempotency_key!r} was used for another task or other arguments:"
            " use a new key for a new request"
        )
    if enqueued.status == "not_unique":
        raise NotUnique(f"a run with the uniqueness key {new.unique_key!r} is already queued: wait until it starts")
    if enqueued.status == "queue_full":
        raise QueueFull(f"queue {new.queue!r} has as many queued runs as it may: send it again later")
    raise UnknownTenant(f"tenant {new.tenant_id!r} is unknown")


def batch_result(index: int, new: NewRun, outcome: Enqueued | BaseException, known: dict[int, Run]) -> BatchResult:
    """`known` has the runs that were there already, and the ordered ones."""
    try:
        if isinstance(outcome, BaseException):
            return failed_result(index, outcome)
        run_id = accepted_id(new, outcome)
    except HowdahError as error:
        return failed_result(index, error)
    status = 200 if outcome.status == "existing" else 201
    if run_id in known:
        fields = {name: getattr(known[run_id], name) for name in RunSummary.__struct_fields__}
        return BatchResult(index, status, RunSummary(**fields))
    return BatchResult(index, status, RunSummary(**summary_fields(new, run_id, outcome.task)))


def must_be_read(new: NewRun, enqueued: Enqueued) -> bool:
    """Whether the run that there is now has to be looked up: it was there before, or others of its session decide
    whether it is blocked."""
    return enqueued.run_id is not None and (enqueued.status == "existing" or new.order is not None)


def summary_fields(new: NewRun, run_id: int, task: str) -> dict[str, Any]:
    """A new run as it is on disk, without asking for it: the id tells by the database's own clock whether it is due.
    `task` is what its name meant. Not for ordered ones."""
    created = created_at(run_id)
    later = new.run_at is not None and new.run_at > created
    return {
        "id": str(run_id),
        "tenant": new.tenant_id,
        "queue": new.queue,
        "task": task,
        "state": "scheduled" if later else "queued",
        "priority": new.priority,
        "session": new.session_id,
        "order": None,
        "order_no": None,
        "attempt": 0,
        "failures": 0,
        "created_at": created,
        "run_at": new.run_at,
        "deadline": new.deadline,
        "started_at": None,
        "finished_at": None,
        "parent": None,
        "parent_step": None,
        "awaits": [],
    }


def failed_result(index: int, error: BaseException) -> BatchResult:
    problem, _ = problem_of(error if isinstance(error, Exception) else RuntimeError(repr(error)))
    return BatchResult(index, problem.status, problem=problem)
