"""`Run`: what makes a workflow durable. Plain async Python calls its steps; each output is on disk before the next."""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, ParamSpec, TypeVar, overload

import msgspec

from howdah.jobs.api_errors import ApiCallFailed, RetryLater
from howdah.jobs.api_executor import ApiExecutor, ApiResponse
from howdah.sql.errors import StaleAttempt, StepRepeated
from howdah.sql.group_commit import GroupCommit
from howdah.sql.json_values import encode
from howdah.sql.notifier import Notifier
from howdah.sql.pool import Pool
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.stream.writer import EVENTS_CHANNEL
from howdah.sql.workflow.calls import ItemStatus, RunItem

P = ParamSpec("P")
R = TypeVar("R")

# An event is a small fact; what is larger belongs in a step's output or a collection.
MAX_EVENT_BYTES = 256 * 1024
MAX_STEP_NAME = 200

# The step whose function runs now, so that what it emits is numbered within it.
_current_step: ContextVar[str] = ContextVar("howdah_step", default="")


@dataclass(frozen=True, slots=True)
class Engine:
    """What a worker lends to its runs."""

    pool: Pool
    writer: GroupCommit[RunItem, ItemStatus]
    notifier: Notifier
    threads: ThreadPoolExecutor
    api: ApiExecutor
    resources: Mapping[type, Any] = field(default_factory=dict)


class Run:
    """One execution of a workflow, in the hands of its author.

    Attributes
    ----------
    id, tenant_id, session_id, task
        Which run this is. `session_id` is where its events go; a run without a session has one of its own.
    attempt
        1 for the first; also the fencing token that every write shows.
    failures
        Attempts that ended in an exception. A worker's death is an attempt, but not a failure.
    """

    def __init__(self, claimed: ClaimedRun, checkpoints: Mapping[str, str | None], engine: Engine) -> None:
        self.id = claimed.id
        self.tenant_id = claimed.tenant_id
        self.session_id = claimed.session_id or f"run:{claimed.id}"
        self.task = claimed.task
        self.attempt = claimed.attempt
        self.failures = claimed.failures
        # Whether its stream may have watchers, who should see the end: an earlier attempt's events count too.
        self.has_events = claimed.session_id is not None or claimed.attempt > 1
        self._checkpoints = checkpoints
        self._engine = engine
        self._steps: Counter[str] = Counter()
        self._events: Counter[str] = Counter()

    @overload
    async def step(self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def step(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function` once and keep its output; on a later attempt read the output back instead.

        The output is JSON by msgspec, read back as the type that the function's return annotation names. A name may
        repeat, as in a loop: repeats are numbered in the order of the calls. A function that is not async runs in a
        thread.

        Raises
        ------
        StaleAttempt
            If another attempt has the run by now: stop, nothing of this one counts any more.
        BadValue, TooLarge
            If the output cannot be stored; see `howdah.sql.json_values`.
        """
        if not 0 < len(name) <= MAX_STEP_NAME or "#" in name or "\0" in name:
            raise ValueError(f"step name {name!r} cannot be used: 1 to {MAX_STEP_NAME} characters, without '#' or NUL")
        self._steps[name] += 1
        step = _numbered(name, self._steps[name])
        decoder = _output_decoder(function)
        if step in self._checkpoints:
            return decoder.decode(self._checkpoints[step] or "null")
        started_at = datetime.now(UTC)
        token = _current_step.set(step)
        try:
            output = await self._call(function, args, kwargs)
        finally:
            _current_step.reset(token)
        body = encode(output, f"the output of step {step!r}")
        status = await self._engine.writer.submit(
            RunItem(self.id, self.attempt, "checkpoint", step, body, at=started_at)
        )
        self._refuse_unless_ok(status, step)
        return output

    async def emit(self, type: str, data: Any = None, *, key: str | None = None) -> None:
        """Append an event to the run's session; on disk when this returns.

        A replay does not repeat it: without a `key` of your own it is known by its type, its data and how often the
        same was emitted in this step (or between the steps) before.

        Raises
        ------
        StaleAttempt
            If another attempt has the run by now.
        BadValue, TooLarge
            If `data` cannot be stored; the limit is 256 KiB.
        """
        body = encode(data, f"the data of event {type!r}", MAX_EVENT_BYTES)
        known_by = key
        if known_by is None:
            # By what it says, not by its place: parallel branches may come in another order on the next attempt.
            said = f"{_current_step.get()}/{type}/{blake2b(body.encode(), digest_size=12).hexdigest()}"
            self._events[said] += 1
            known_by = f"{said}#{self._events[said]}"
        item = RunItem(self.id, self.attempt, "event", type, body, key=f"{self.id}/{known_by}", at=datetime.now(UTC))
        self.has_events = True
        self._refuse_unless_ok(await self._engine.writer.submit(item), type)
        self._engine.notifier.hint(EVENTS_CHANNEL, [f"{self.tenant_id}/{self.session_id}"])

    async def progress(self, fraction: float, note: str = "") -> None:
        """Report how far the run is, 0 to 1, as a `howdah.progress` event."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress {fraction} is not between 0 and 1")
        await self.emit("howdah.progress", {"fraction": fraction, "note": note})

    async def call(
        self,
        name: str,
        method: str,
        url: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta = timedelta(seconds=30),
        max_attempts: int = 5,
    ) -> ApiResponse:
        """Call an outside API as a step named `name`; its response is kept like any step's output.

        It is retried, with the same idempotency key each time. When the API asks to wait longer than a worker should
        hold still, the run sleeps as a row and goes on later. See `howdah.jobs.api_executor` for limits and errors.
        """
        # Attempts made before the run slept are on disk too, or an API that always says wait would never be given up.
        step = _numbered(name, self._steps[name] + 1)
        pauses = 0
        while (used := self._checkpoints.get(f"{step}#paused-{pauses + 1}")) is not None:
            max_attempts -= int(used)
            pauses += 1

        async def request() -> ApiResponse:
            return await self._engine.api.request(
                method,
                url,
                json=json,
                content=content,
                headers=headers,
                timeout=timeout,
                max_attempts=max(max_attempts, 1),
                idempotency_key=self.idempotency_key(step),
            )

        try:
            return await self.step(name, request)
        except RetryLater as later:
            paused = f"{step}#paused-{pauses + 1}"
            status = await self._engine.writer.submit(
                RunItem(self.id, self.attempt, "checkpoint", paused, str(later.attempts))
            )
            self._refuse_unless_ok(status, paused)
            if later.attempts >= max_attempts:
                raise ApiCallFailed(
                    f"{later}; no attempt is left", status=later.status, body_excerpt="", attempts=later.attempts
                ) from later
            raise

    def idempotency_key(self, name: str) -> str:
        """A key for an outside API, the same on every attempt of this run."""
        return f"howdah-{self.id}-{name}"

    def resource(self, kind: type[R]) -> R:
        """The one object of type `kind` that the worker was composed with, such as a router or an embedder.

        Raises
        ------
        LookupError
            If the worker has none; the message lists what it has.
        """
        try:
            return typing.cast(R, self._engine.resources[kind])
        except KeyError:
            known = ", ".join(sorted(known.__name__ for known in self._engine.resources)) or "none"
            raise LookupError(f"this worker has no {kind.__name__}; it has: {known}") from None

    @property
    def pool(self) -> Pool:
        """Connections to the cell, for steps that read or write tables."""
        return self._engine.pool

    @property
    def current_step(self) -> str | None:
        """Name of the step whose function is running here."""
        return _current_step.get() or None

    async def _call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(_unwrap(function)):
            return await function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        output = await loop.run_in_executor(self._engine.threads, functools.partial(function, *args, **kwargs))
        return await output if inspect.isawaitable(output) else output

    def _refuse_unless_ok(self, status: ItemStatus, what: str) -> None:
        if status == "stale":
            raise StaleAttempt(
                f"attempt {self.attempt} of run {self.id} is over: {what!r} was not written, another one has the run"
            )
        if status == "repeated":
            raise StepRepeated(
                f"step {what!r} of run {self.id} ran again although its output was on disk; the first output was kept"
            )


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}#{number}"


def _unwrap(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _output_decoder(function: Callable[..., Any]) -> msgspec.json.Decoder[Any]:
    """Decoder of what `function` returns.

    Looked up before the first run too, so that an annotation that cannot be resolved fails at once, not at a recovery.
    """
    plain = _unwrap(function)
    plain = getattr(plain, "__func__", plain)
    # Closures made in a loop share their code: one entry serves them all, and none is kept alive.
    key = (getattr(plain, "__code__", None) or type(plain), getattr(plain, "__annotations__", {}).get("return", Any))
    decoder = _decoders.get(key)
    if decoder is None:
        try:
            hints = typing.get_type_hints(plain if hasattr(plain, "__code__") else type(plain).__call__)
        except NameError as error:
            raise TypeError(
                f"the return annotation of {plain!r} cannot be resolved ({error}): steps need types of module level"
            ) from error
        decoder = _decoders[key] = msgspec.json.Decoder(hints.get("return", Any))
    return decoder


_decoders: dict[tuple[Any, Any], msgspec.json.Decoder[Any]] = {}
