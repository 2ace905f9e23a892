"""What a worker writes by REST: read strictly, written through group commit, answered item by item; then hints."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

import msgspec

from howdah.app.api.bodies import decode_body
from howdah.app.api.problems import FieldError, Problem, Refused, problem_of
from howdah.app.composition import Resources
from howdah.sql.errors import HowdahError, SessionFull, StaleAttempt, StepRepeated
from howdah.sql.json_values import MAX_BYTES, checked
from howdah.sql.queue.writer import RUNS_CHANNEL
from howdah.sql.stream.writer import EVENTS_CHANNEL
from howdah.sql.workflow.calls import ItemKind, ItemStatus, RunItem, Signal, read_signals

# One transaction's worth; a worker with more sends several.
MAX_ITEMS = 1000
# An event is a small fact, not a document.
MAX_EVENT_BYTES = 256 * 1024
# Things that one wait waits for.
MAX_AWAITED = 100

OutcomeName = Literal["succeeded", "failed", "cancelled", "retry", "reschedule", "release", "wait"]
FINAL = frozenset({"succeeded", "failed", "cancelled"})
AGAIN = frozenset({"retry", "reschedule", "release"})
CANCELLED = '{"type": "Cancelled", "message": "cancelled while running"}'

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One thing to say about a run that this worker has. What `name`, `body`, `key` and `at` are is told by `kind`:

    `checkpoint`: the step, its output, the step that it came after, when it started. `event`: the type, the data, a key
    that makes a repeat harmless, when it happened. `outcome`: `succeeded` with the output; `failed` or `retry`, counted
    as a failure, with `{"type", "message"}`, and when to try again; `reschedule`, not a failure, and when; `release`:
    again at once; `cancelled`; `wait` until one of the listed has come, or until `at`: `{"signal": name, "after": n}`,
    perhaps with `choices`, `{"events": n}`, perhaps with `types`, or `{"sleep": step}`."""

    run: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,19}$(?!\n)")]
    attempt: Annotated[int, msgspec.Meta(ge=1, le=2_147_483_647)]
    kind: ItemKind
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    body: Annotated[msgspec.Raw, msgspec.Meta(description="Any JSON.")] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"null")
    )
    key: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class ItemBatch(msgspec.Struct):
    """Items to write together; those of a run in order."""

    items: Annotated[list[Item], msgspec.Meta(max_length=MAX_ITEMS)]


class SentSignal(msgspec.Struct, frozen=True):
    """The `no`-th signal of its name."""

    name: str
    no: int
    payload: msgspec.Raw


class ItemResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the item at `index`: `ok`, on disk. `stale`: the attempt is over, nothing was written. `repeated`:
    the step had an output, which stays. Of a wait: `ready`, what it waits for has come, here are all `signals`, go on;
    `cancelled`, end the run so. `full`: a reader of the session is too far behind for this event, or for one before it
    of the run; send both again later, in order. `refused`: see its `problem`."""

    index: int
    status: Literal["ok", "stale", "repeated", "ready", "cancelled", "full", "refused"]
    signals: list[SentSignal] | None = None
    problem: Problem | None = None


class ItemResults(msgspec.Struct, frozen=True):
    """One result an item, in order."""

    items: list[ItemResult]


class _Error(msgspec.Struct):
    """Why a run failed; more fields are kept as they are."""

    type: Text
    message: str


class _Awaited(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    signal: Text | msgspec.UnsetType = msgspec.UNSET
    events: Annotated[int, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    sleep: Text | msgspec.UnsetType = msgspec.UNSET
    after: Annotated[int, msgspec.Meta(ge=0, le=2_147_483_647)] | msgspec.UnsetType = msgspec.UNSET
    choices: list[str] | msgspec.UnsetType = msgspec.UNSET
    types: list[str] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        kinds = [kind for kind in ("signal", "events", "sleep") if getattr(self, kind) is not msgspec.UNSET]
        if len(kinds) != 1:
            raise ValueError("name one of signal, events and sleep")
        if kinds != ["signal"] and (self.after, self.choices) != (msgspec.UNSET, msgspec.UNSET):
            raise ValueError("after and choices belong to a signal")
        if kinds != ["events"] and self.types is not msgspec.UNSET:
            raise ValueError("types belong to events")
        if kinds == ["signal"] and self.after is msgspec.UNSET:
            self.after = 0


_Awaits = Annotated[list[_Awaited], msgspec.Meta(min_length=1, max_length=MAX_AWAITED)]


class _Named(msgspec.Struct):
    run: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a running run is: whose, its stream and whether that may have watchers, its queue and whether another run
    may start as this one ends."""

    stream: str
    watched: bool
    queue: str
    frees: bool


async def write_items(data: Sequence[bytes], resources: Resources) -> ItemResults:
    """Write these items, and tell after the commit those whom it concerns."""
    results: dict[int, ItemResult] = {}
    items: dict[int, RunItem] = {}
    held_back: set[int] = set()
    for index, text in enumerate(data):
        try:
            item = _read(text, f"/items/{index}")
            if item.run_id in held_back:
                _refuse(f"/items/{index}", f"an earlier item of run {item.run_id} was refused: send both again")
            items[index] = item
        except (Refused, HowdahError) as error:
            results[index] = ItemResult(index, "refused", problem=problem_of(error)[0])
            held_back |= _run_of(text)
    places = await _places(items.values(), resources)
    written = await _write(items, places, resources)
    ready = [items[index].run_id for index, status in written.items() if status == "ready"]
    signals: dict[int, list[SentSignal]] = {}
    if ready:
        async with resources.pool.connection() as connection:
            signals = sent_signals(await read_signals(connection, ready))
    for index, status in written.items():
        results[index] = _result(index, items[index], status, signals)
    return ItemResults([results[index] for index in range(len(data))])


def sent_signals(signals: Iterable[Signal]) -> dict[int, list[SentSignal]]:
    """By run, in the order in which they were read."""
    found: dict[int, list[SentSignal]] = {}
    for signal in signals:
        sent = SentSignal(signal.name, signal.no, msgspec.Raw(signal.payload.encode()))
        found.setdefault(signal.run_id, []).append(sent)
    return found


async def _write(
    items: dict[int, RunItem], places: dict[int, _Place], resources: Resources
) -> dict[int, ItemStatus | BaseException]:
    added: dict[int, asyncio.Future[ItemStatus]] = {}
    ends: list[asyncio.Future[ItemStatus]] = []
    watched = {run_id for run_id, place in places.items() if place.watched}
    for index, item in items.items():
        if item.kind == "event":
            watched.add(item.run_id)
        elif item.kind == "outcome" and item.name in FINAL and item.run_id in watched:
            # Those who watch the stream should see how it ended; as Howdah's own worker tells it.
            body = item.body if item.name != "succeeded" else "{}"
            key = f"{item.run_id}/outcome/{item.attempt}"
            end = RunItem(item.run_id, item.attempt, "event", f"howdah.run.{item.name}", body, key)
            ends.append(resources.run_items.add(end))
        added[index] = resources.run_items.add(item)
    statuses = await asyncio.gather(*added.values(), return_exceptions=True)
    await asyncio.gather(*ends, return_exceptions=True)
    written = dict(zip(added, statuses, strict=True))
    for index, status in written.items():
        item = items[index]
        place = places.get(item.run_id)
        if place is None or status != "ok":
            continue
        if item.kind == "event" or (item.name in FINAL and item.run_id in watched):
            resources.notifier.hint(EVENTS_CHANNEL, [place.stream])
        if item.kind == "outcome" and (item.name in AGAIN or place.frees):
            resources.notifier.hint(RUNS_CHANNEL, [place.queue])
    return written


async def _places(items: Iterable[RunItem], resources: Resources) -> dict[int, _Place]:
    """Of the runs that somebody may have to be told of; read before their last item takes them away."""
    runs = sorted({item.run_id for item in items if item.kind != "checkpoint"})
    if not runs:
        return {}
    async with resources.pool.connection() as connection:
        cursor = await connection.execute(
            "select r.id, r.tenant_id || '/' || session_of_run(r.id, r.session_id),"
            " r.session_id is not null or r.attempt > 1 or exists (select from session as s"
            "   where s.tenant_id = r.tenant_id and s.id = session_of_run(r.id, null)),"
            " r.queue, r.order_no is not null or q.max_running is not null or q.max_running_per_tenant is not null"
            " from run as r join queue as q on q.name = r.queue where r.id = any(%s::bigint[])",
            [runs],
        )
        return {run_id: _Place(*rest) for run_id, *rest in await cursor.fetchall()}


def _result(
    index: int, item: RunItem, status: ItemStatus | BaseException, signals: dict[int, list[SentSignal]]
) -> ItemResult:
    if isinstance(status, BaseException):
        error = status if isinstance(status, Exception) else RuntimeError(repr(status))
        return ItemResult(index, "refused", problem=problem_of(error)[0])
    assert status != "busy", "the writer sends what is busy again"
    if status == "stale":
        stale = StaleAttempt(f"attempt {item.attempt} of run {item.run_id} is over: {item.name!r} was not written")
        return ItemResult(index, status, problem=problem_of(stale)[0])
    if status == "repeated":
        repeated = StepRepeated(
            f"step {item.name!r} of run {item.run_id} ran again although its output was on disk; the first was kept"
        )
        return ItemResult(index, status, problem=problem_of(repeated)[0])
    if status == "full":
        full = SessionFull(
            f"{item.kind} {item.name!r} of run {item.run_id} was not written: a required consumer of its session is as"
            " far behind as the session's window allows; send it again later, after the events before it"
        )
        return ItemResult(index, status, problem=problem_of(full)[0])
    return ItemResult(index, status, signals=signals.get(item.run_id, []) if status == "ready" else None)


def _read(text: bytes, where: str) -> RunItem:
    """An item as `flush` takes it."""
    item = decode_body(text, Item, where)
    if int(item.run) >= 1 << 63:
        _refuse(f"{where}/run", f"no run has the id {item.run}")
    of = f"{where}/body"
    body: str | None = checked(bytes(item.body), of, MAX_EVENT_BYTES if item.kind == "event" else MAX_BYTES)
    key = item.key
    if item.kind == "event" and key is not None:
        # Known by its run: another one of the session may use the same.
        key = f"{item.run}/{key}"
    if item.kind == "outcome":
        if item.name not in get_args(OutcomeName):
            _refuse(f"{where}/name", f"{item.name!r} is no outcome: use one of {', '.join(get_args(OutcomeName))}")
        if key is not None:
            _refuse(f"{where}/key", "an outcome has no key: leave it out")
        if item.name == "cancelled" and body == "null":
            body = CANCELLED
        elif item.name in ("failed", "retry", "cancelled"):
            decode_body(bytes(item.body), _Error, of)
        elif item.name == "wait":
            body, key = _awaits(item, where)
    return RunItem(int(item.run), item.attempt, item.kind, item.name, body, key, item.at)


def _awaits(item: Item, where: str) -> tuple[str, str | None]:
    """What a wait waits for, and the key that says that it listens to its session."""
    awaits: list[_Awaited] = decode_body(bytes(item.body), _Awaits, f"{where}/body")
    if item.at is None and all(awaited.sleep is not msgspec.UNSET for awaited in awaits):
        _refuse(f"{where}/at", "nothing would wake it: say when it has slept enough")
    listens = any(awaited.events is not msgspec.UNSET for awaited in awaits)
    return msgspec.json.encode(awaits).decode(), "session" if listens else None


def _run_of(text: bytes) -> set[int]:
    """The run that an item names which is refused, as far as it can be told."""
    try:
        named = msgspec.json.decode(text, type=_Named).run
        return {int(named)} if named.isascii() and named.isdecimal() else set()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()


def _refuse(pointer: str, detail: str) -> Any:
    raise Refused(422, "invalid-request", f"{pointer}: {detail}", errors=[FieldError(detail, pointer)])
