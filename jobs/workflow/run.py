"""`Run`: what makes a workflow durable. Plain async Python calls its steps; each output is on disk before the next."""

from __future__ import annotations

import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

import msgspec
from procrastinate.retry import RetryValue

from howdah.jobs.api.executor import ApiResponse
from howdah.jobs.errors import ChildrenFailedError, SignalTimeoutError
from howdah.jobs.workflow import api_step, children, session_events
from howdah.jobs.workflow.emitter import Emitter
from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.history import History, current_step, passed, place
from howdah.jobs.workflow.partials import TextStream
from howdah.jobs.workflow.past import Past
from howdah.jobs.workflow.rest import Holder, Rest
from howdah.jobs.workflow.session_events import SessionEvent
from howdah.jobs.workflow.signal_inbox import Received, SignalInbox
from howdah.jobs.workflow.step_function import output_decoder
from howdah.jobs.workflow.steps import Steps
from howdah.jobs.workflow.transaction import Keep, run_transaction, with_psycopg, with_sqlalchemy
from howdah.sql.json_values import encode
from howdah.sql.pool import Connection, Pool
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.reconnect import through_reconnects
from howdah.sql.workflow.calls import NewSignal, SignalStatus, send_signals

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from howdah.jobs.app import Workflow

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# Items of a map under way at once, unless it says otherwise.
MAP_LIMIT = 16


class Run:
    """One execution of a workflow, in the hands of its author.

    Attributes
    ----------
    id, tenant_id, session_id, task
        Which run this is. `session_id` is where its events go; a run without a session has one of its own.
    attempt
        1 for the first; also the fencing token that every write shows. A run that has rested comes back as another one.
    failures
        Attempts that ended in an exception. A worker's death is an attempt, but not a failure.
    """

    def __init__(
        self,
        claimed: ClaimedRun,
        past: Past,
        engine: Engine,
        holder: Holder,
        search_path: str,
    ) -> None:
        self.id = claimed.id
        self.tenant_id = claimed.tenant_id
        self.session_id = claimed.session_id or f"run:{claimed.id}"
        self.task = claimed.task
        self.attempt = claimed.attempt
        self.failures = claimed.failures
        self._claimed = claimed
        self._engine = engine
        self._search_path = search_path
        self._history = History(claimed.id, past.steps)
        self._inbox = SignalInbox(claimed.id, past.signals, self._history, engine)
        self._rest = Rest(claimed.id, claimed.attempt, engine.writer, holder, self._inbox.refresh, engine.clock)
        self._steps = Steps(claimed, self._history, self._rest, engine)
        self._emitter = Emitter(claimed, past.emitted, self._rest, self._steps, engine)

    @overload
    async def step(self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def step(  # type: ignore[overload-cannot-match]  # by those who give options
        self,
        name: str,
        function: Callable[..., Awaitable[R]],
        /,
        *args: Any,
        retry: RetryValue = ...,
        timeout: timedelta | None = ...,
        **kwargs: Any,
    ) -> R: ...
    @overload
    async def step(  # type: ignore[overload-cannot-match]  # by those who give options
        self,
        name: str,
        function: Callable[..., R],
        /,
        *args: Any,
        retry: RetryValue = ...,
        timeout: timedelta | None = ...,
        **kwargs: Any,
    ) -> R: ...
    async def step(  # type: ignore[misc]
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        retry: RetryValue = False,
        timeout: timedelta | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run `function` once and keep its output; on a later attempt read the output back instead.

        The output is JSON by msgspec, read back as the type that the function's return annotation names. A name may
        repeat, as in a loop: repeats are numbered in the order of the calls. A function that is not async runs in a
        thread.

        A failure that the code catches, and goes on from to another step, is kept as well: a later attempt raises it
        again, and takes the same way; so is one of a task that the code has started and seen end, as
        ``asyncio.gather(…, return_exceptions=True)`` does. One that ends the attempt is tried again by the next.

        Parameters
        ----------
        retry
            When to try the function again, within the run: as a task's, a number of attempts or a strategy. A wait of
            more than a second holds no worker.
        timeout
            How long one call may take; then it has failed with a TimeoutError. A thread runs on, and is ignored.

        Raises
        ------
        StaleAttempt
            If another attempt has the run by now: stop, nothing of this one counts any more.
        HistoryContradictedError
            If an earlier attempt finished this step in another place.
        BadValue, TooLarge
            If the output cannot be stored; see `howdah.sql.json_values`.
        """
        step = self._history.number(name)
        output = await self._steps.run(step, place(), function, args, kwargs, retry, timeout)
        passed(step)
        return output

    @overload
    async def map(
        self,
        name: str,
        function: Callable[[T], Awaitable[R]],
        items: Iterable[T],
        *,
        limit: int = ...,
        retry: RetryValue = ...,
        timeout: timedelta | None = ...,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        name: str,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        limit: int = ...,
        retry: RetryValue = ...,
        timeout: timedelta | None = ...,
    ) -> list[R]: ...
    async def map(
        self,
        name: str,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        limit: int = MAP_LIMIT,
        retry: RetryValue = False,
        timeout: timedelta | None = None,
    ) -> list[Any]:
        """Run `function` on each item as a step of its own, `limit` at a time; the outputs in the items' order.

        The first error ends the map. A later attempt repeats only what had not finished.
        """
        return await self._steps.map(name, function, items, limit, retry, timeout)

    async def transaction(
        self,
        name: str,
        function: Callable[Concatenate[Connection, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Run `function` once, as a step whose own SQL commits with its checkpoint: both are there, or neither.

        `function` gets a psycopg connection in a transaction, its search_path on the cell, and must not commit. See
        `sqlalchemy_transaction` for SQLAlchemy. What else it does, a request say, is done at least once: it is also
        called again where the connection breaks.

        Errors are those of `step`; a database that cannot be reached for a minute fails the attempt.
        """

        async def write(keep: Keep) -> None:
            await with_psycopg(self._engine.pool, function, args, kwargs, keep)

        return typing.cast(R, await self._transaction(name, function, write))

    async def sqlalchemy_transaction(
        self,
        name: str,
        engine: AsyncEngine,
        function: Callable[Concatenate[AsyncConnection, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """As `transaction`, with a connection of `engine`, whose driver is psycopg and whose database is this one's."""

        async def write(keep: Keep) -> None:
            await with_sqlalchemy(engine, self._search_path, function, args, kwargs, keep)

        return typing.cast(R, await self._transaction(name, function, write))

    async def sleep(self, name: str, duration: timedelta) -> None:
        """Go on `duration` after the first attempt came here. Longer than a second, no worker is held meanwhile."""
        step, after = self._history.number(name), place()
        await self._steps.pause(step, await self._steps.moment(step, after, duration))
        passed(step)

    async def now(self) -> datetime:
        """The time, in UTC, as a step named ``now``: a later attempt that comes here is told the same."""
        step, after = self._history.number("now"), place()
        moment = await self._steps.moment(step, after)
        passed(step)
        return moment

    @overload
    async def wait_for(
        self, name: str, *, timeout: timedelta | None = ..., choices: Sequence[str] | None = ...
    ) -> Any: ...
    @overload
    async def wait_for(
        self, name: str, type: type[T], *, timeout: timedelta | None = ..., choices: Sequence[str] | None = ...
    ) -> T: ...
    async def wait_for(
        self,
        name: str,
        type: Any = Any,
        *,
        timeout: timedelta | None = None,
        choices: Sequence[str] | None = None,
    ) -> Any:
        """The payload of the next signal of this name that no other wait of the run has had, as a `type`.

        One that was sent before is not lost. The wait holds no worker, and outlives every restart.

        Parameters
        ----------
        timeout
            Counted from when the first attempt came here.
        choices
            What the payload, or its field `choice`, may be: an approval. Others are refused while the run waits, and
            passed over where they came before.

        Raises
        ------
        SignalTimeoutError
            If none has come in time; on later attempts too.
        msgspec.ValidationError
            If the payload is no `type`.
        """
        step, after = self._history.number(name), place()
        known = await self._steps.recall(step, after)
        if known is None:
            until = None if timeout is None else await self._steps.moment(f"{step}#until", None, timeout)
            received = await self._inbox.receive(name, choices, until, self._rest)
            await self._steps.keep(step, after, msgspec.json.encode(received).decode())
        else:
            received = self._history.decode(step, known, Received)
        passed(step)
        if received.no is None:
            raise SignalTimeoutError(f"run {self.id} waited {timeout} for the signal {name!r}, and none came")
        return msgspec.json.decode(received.payload, type=type)

    async def children(self, name: str, workflow: Workflow[Any, R], items: Iterable[Any]) -> list[R]:
        """Run `workflow` on each item, as a run of its own on its own queue; their outputs in the items' order.

        An item is the workflow's one argument. The parent waits as a row. Cancelled, failed or past its deadline, it
        takes its children along.

        Raises
        ------
        ChildrenFailedError
            If one has failed or was cancelled, once all have ended. Requeue the child, then the parent, to go on.
        """
        step, after = self._history.number(name), place()
        try:
            outputs = await children.run_children(
                self._claimed, self._engine, self._history, self._rest, self._steps, step, after, workflow, list(items)
            )
        except ChildrenFailedError as error:
            self._steps.failed(step, error)
            raise
        passed(step)
        decoder = output_decoder(workflow.function)
        return [decoder.decode(output) for output in outputs]

    def events(self, types: Sequence[str] | None = None, *, after: int = 0) -> AsyncIterator[SessionEvent]:
        """The session's events from number `after` + 1 on, without the run's own, for ever: between them it rests.

        ``async for event in run.events(types=["message"])`` sees the same events in the same order on each attempt, so
        the steps of its body are known by their number, and none is handled twice.
        """
        return session_events.follow(self._engine.pool, self._claimed, self._rest, types, after)

    async def signal(self, run_id: int, name: str, payload: Any = None) -> SignalStatus:
        """Send a signal to another run of the tenant, as a step: once, whatever happens."""
        body = encode(payload, f"the payload of signal {name!r}")
        step = self._history.next_number(f"signal {name}")

        new = NewSignal(run_id, name, body, key=f"{self.id}/{step}")

        async def send_once() -> SignalStatus:
            async with self._engine.pool.connection() as connection:
                (status,) = await send_signals(connection, self.tenant_id, [new])
            return status

        async def send() -> SignalStatus:
            status = await through_reconnects(send_once, f"signal {name!r}")
            # The key is this step's own: an attempt that died before it could keep the answer has sent it.
            return "sent" if status == "existing" else status

        return await self.step(f"signal {name}", send)

    async def emit(self, type: str, data: Any = None, *, key: str | None = None) -> None:
        """Append an event to the run's session; on disk when this returns.

        Where the session has a window, and a required consumer is as far behind as that allows, it waits until there
        is room; other branches of the run go on.

        A replay does not repeat it: without a `key` of your own it is known by its type, its data and how often the
        same was emitted in this step (or between the steps) before.

        Raises
        ------
        StaleAttempt
            If another attempt has the run by now.
        BadValue, TooLarge
            If `data` cannot be stored; the limit is 256 KiB.
        SessionFull
            If there is no room, and the run is only tidying up, because somebody has cancelled it.
        """
        await self._emitter.emit(type, data, key)

    def stream(self, type: str, *, name: str | None = None) -> TextStream:
        """A text that its readers see as it grows, and that is one event of this type in the end.

        ``async with run.stream("assistant.message") as out: out.write(token)``. See `howdah.jobs.workflow.partials`.
        Without a `name` it is known by the step and its type, and by which one of these it is: give those that grow
        side by side each its own.
        """
        return TextStream(self._emitter, self._engine.partials, self._claimed, type, name)

    async def progress(self, fraction: float, note: str = "") -> None:
        """Report how far the run is, 0 to 1, as a `howdah.progress` event."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress {fraction} is not between 0 and 1")
        await self.emit("howdah.progress", {"fraction": fraction, "note": note})

    async def log(self, message: str, **fields: Any) -> None:
        """Say something to those who watch the run, as a `howdah.log` event."""
        await self.emit("howdah.log", {"message": message, **fields})

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
        hold still, the run sleeps as a row and goes on later. See `howdah.jobs.api.executor` for limits and errors.
        """
        return await api_step.call(
            self._engine.api,
            self._history,
            self._steps,
            name,
            self.idempotency_key,
            max_attempts,
            method,
            url,
            json=json,
            content=content,
            headers=headers,
            timeout=timeout,
        )

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
    def has_events(self) -> bool:
        """Whether its session may have watchers, who should see the end: an earlier attempt's events count too."""
        return self._claimed.session_id is not None or self._emitter.any

    @property
    def pool(self) -> Pool:
        """Connections to the cell, for steps that read or write tables."""
        return self._engine.pool

    @property
    def current_step(self) -> str | None:
        """Name of the step whose function is running here."""
        return current_step() or None

    def end(self) -> None:
        """The code has returned.

        Raises
        ------
        HistoryContradictedError
            If it left out what an earlier attempt had finished.
        """
        self._history.assert_all_asked()

    def close(self) -> None:
        """Nothing more comes of it here."""
        self._rest.close()

    async def _transaction(
        self, name: str, function: Callable[..., Any], write: Callable[[Keep], Awaitable[None]]
    ) -> Any:
        step, after = self._history.number(name), place()
        output = await run_transaction(self._engine, self._claimed, self._rest, self._steps, step, after, write)
        passed(step)
        return output_decoder(function).decode(output)
