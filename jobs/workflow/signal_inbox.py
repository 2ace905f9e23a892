"""The signals that were sent to a run, and which of them its waits have had."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
import structlog

from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.history import History
from howdah.jobs.workflow.rest import Rest
from howdah.sql.reconnect import through_reconnects
from howdah.sql.workflow.calls import Signal, read_signals

log = structlog.get_logger(__name__)


class Received(msgspec.Struct):
    """What a wait for a signal keeps as its output: `no` is null, and the payload too, if none came in time."""

    signal: str
    no: int | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")


class SignalInbox:
    """Hands each signal to one wait: the earliest of its name that no wait has had."""

    def __init__(self, run_id: int, signals: Sequence[Signal], history: History, engine: Engine) -> None:
        self._run_id = run_id
        self._signals = signals
        self._pool = engine.pool
        self._clock = engine.clock
        self._history = history

    async def receive(self, name: str, choices: Sequence[str] | None, until: datetime | None, rest: Rest) -> Received:
        """The next one of this name, awaited; without a number, where none has come by `until`."""
        while (received := self.take(name, choices)) is None:
            if until is not None and self._clock.now() >= until:
                return Received(name)
            what: dict[str, Any] = {"signal": name, "after": self.last(name)}
            if choices is not None:
                what["choices"] = list(choices)
            await rest.wait(what, until)
        return received

    def take(self, name: str, choices: Sequence[str] | None) -> Received | None:
        """The next one of this name; one that is none of `choices` is passed over for good."""
        for signal in self._signals:
            if signal.name != name or (name, signal.no) in self._taken:
                continue
            self._taken.add((name, signal.no))
            if choices is not None and _choice(signal.payload) not in choices:
                log.warning("signal_is_no_choice", run=self._run_id, signal=name, no=signal.no, choices=list(choices))
                continue
            return Received(name, signal.no, msgspec.Raw(signal.payload.encode()))
        return None

    def last(self, name: str) -> int:
        """Number of the latest one of this name that is here; 0: none is."""
        return max((signal.no for signal in self._signals if signal.name == name), default=0)

    @cached_property
    def _taken(self) -> set[tuple[str, int]]:
        """Name and number of those that waits have had: in earlier attempts, to begin with. Most runs never ask."""
        taken = set()
        for step, output in self._history.outputs():
            if output.startswith(('{"no"', '{"signal"')):
                received = received_of(output)
                # A wait is named for its signal: another step's output may only look like one.
                name = step.partition("#")[0]
                if received is not None and received.no is not None and received.signal == name:
                    taken.add((received.signal, received.no))
        return taken

    async def refresh(self) -> None:
        """Read again what has come."""

        async def read() -> list[Signal]:
            async with self._pool.connection() as connection:
                return await read_signals(connection, [self._run_id])

        self._signals = await through_reconnects(read, "signals")


def received_of(output: str) -> Received | None:
    """What a wait has kept; None where it is another step's output."""
    try:
        return msgspec.json.decode(output, type=Received)
    except msgspec.DecodeError:
        return None


def _choice(payload: str) -> Any:
    value = msgspec.json.decode(payload)
    return value.get("choice") if isinstance(value, dict) else value
