"""What a run emits into its session: once each, whatever becomes of its attempts."""

from __future__ import annotations

from collections.abc import Set
from hashlib import blake2b
from typing import Any

from howdah.jobs.workflow import session_events
from howdah.jobs.workflow.engine import Engine
from howdah.jobs.workflow.history import current_step, numbered
from howdah.jobs.workflow.rest import Rest
from howdah.jobs.workflow.steps import Steps
from howdah.sql.json_values import encode
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.stream.writer import EVENTS_CHANNEL
from howdah.sql.workflow.calls import RunItem

# An event is a small fact; what is larger belongs in a step's output or a collection.
MAX_EVENT_BYTES = 256 * 1024


class Emitter:
    """Writes one run's events.

    Attributes
    ----------
    any
        Whether it has emitted something, in earlier attempts or this one.
    """

    def __init__(self, claimed: ClaimedRun, emitted: Set[str], rest: Rest, steps: Steps, engine: Engine) -> None:
        self._claimed = claimed
        self._emitted = emitted
        self._rest = rest
        self._steps = steps
        self._engine = engine
        self._numbers: dict[str, int] = {}
        self._streams: set[str] = set()
        self.any = bool(emitted)

    async def emit(self, type: str, data: Any, key: str | None) -> None:
        """See `Run.emit`."""
        body = encode(data, f"the data of event {type!r}", MAX_EVENT_BYTES)
        known_by = key
        if known_by is None:
            # By what it says, not by its place: parallel branches may come in another order on the next attempt.
            said = f"{current_step()}/{type}/{blake2b(body.encode(), digest_size=12).hexdigest()}"
            number = self._numbers[said] = self._numbers.get(said, 0) + 1
            known_by = f"{said}#{number}"
        if not self.has_emitted(known_by):
            await self.write(type, body, known_by)

    def has_emitted(self, known_by: str) -> bool:
        """Whether an earlier attempt has written the event of this key."""
        return self._key(known_by) in self._emitted

    async def write(self, type: str, body: str, known_by: str) -> None:
        """Write the event of this key, whose data is JSON text; on disk when this returns. Errors as for `Run.emit`."""
        claimed, engine = self._claimed, self._engine
        key, at = self._key(known_by), engine.clock.now()
        item = RunItem(claimed.id, claimed.attempt, "event", type, body, key=key, at=at)
        self.any = True
        session = f"{claimed.tenant_id}/{claimed.session_id or f'run:{claimed.id}'}"
        await session_events.write(engine, self._rest, self._steps, item, session)
        engine.notifier.hint(EVENTS_CHANNEL, [session])

    def open_stream(self, name: str) -> str:
        """The first of ``name``, ``name#2`` … that no text stream of this attempt has: open, or ended well."""
        number = 1
        while numbered(name, number) in self._streams:
            number += 1
        self._streams.add(numbered(name, number))
        return numbered(name, number)

    def give_back(self, stream: str) -> None:
        """The text has failed: whoever tries again is the same stream."""
        self._streams.discard(stream)

    def _key(self, known_by: str) -> str:
        return f"{self._claimed.id}/{known_by}"
