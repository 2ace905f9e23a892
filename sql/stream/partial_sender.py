"""Parts of events to come, sent to who reads now: at most one transaction in 20 ms, however many tokens there are.

A hint (`howdah.sql.notifier`) may be merged with others or lost; here the payload is what counts, so order is kept and
nothing is merged but a text's own tokens. It is live only all the same: what cannot be sent is dropped.
A run's text is fenced: once another attempt has the run, nothing more of it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import msgspec
import psycopg
import structlog

from howdah.sql.errors import BadValue, TooLarge
from howdah.sql.json_values import encode
from howdah.sql.pool import Pool
from howdah.sql.queue.calls import ClaimedRun
from howdah.sql.stream.calls import send_partials

log = structlog.get_logger(__name__)

# The first part goes at once; then at most one round in this time (seconds): fifty a second read as fluent.
INTERVAL = 0.02
# PostgreSQL's limit of a notification.
MAX_PAYLOAD_BYTES = 7_999
# Payloads that wait while the database is away: what comes after them is refused.
MAX_WAITING = 1_000
# Bytes of a payload that a text needs for itself at least, beside the names in it.
MIN_TEXT_BYTES = 1_000


class PartialSender:
    """Sends partials of all producers of a process, in the order in which they came."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        # In order; a text stands where it was first written to since the last round.
        self._waiting: list[str | PartialText] = []
        self._sender: asyncio.Task[None] | None = None

    def send(self, tenant_id: str, session_id: str, type: str, data: str) -> bool:
        """Send a partial whose `data` is JSON text, soon. Never waits. Equal ones within 20 ms are heard once.

        False, and not taken, where :data:`MAX_WAITING` wait already.

        Raises
        ------
        TooLarge
            Above what a notification carries, some 7,900 bytes.
        """
        body = msgspec.json.encode({"type": type, "data": msgspec.Raw(data.encode())})
        payload = f"{tenant_id}/{session_id} {body.decode()}"
        if (size := len(payload.encode())) > MAX_PAYLOAD_BYTES:
            raise TooLarge(
                f"a partial of {size:,} bytes is too large, the limit is {MAX_PAYLOAD_BYTES:,}: send several"
            )
        if len(self._waiting) >= MAX_WAITING:
            return False
        self.add(payload)
        return True

    def add(self, what: str | PartialText) -> None:
        """Take a payload, or a text that has some, into the next round."""
        self._waiting.append(what)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())

    async def aclose(self) -> None:
        """Send what waits, then stop."""
        while self._sender is not None:
            await asyncio.wait([self._sender])

    async def _send(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                parts: list[tuple[str, PartialText | None]] = []
                for what in waiting:
                    parts += [(what, None)] if isinstance(what, str) else [(part, what) for part in what.take()]
                if parts:
                    await self._send_parts(parts)
                for what in waiting:
                    if isinstance(what, PartialText):
                        what.went()
                await asyncio.sleep(INTERVAL)
        finally:
            self._sender = None

    async def _send_parts(self, parts: Sequence[tuple[str, PartialText | None]]) -> None:
        try:
            async with self._pool.connection() as connection:
                sent = await send_partials(
                    connection,
                    [payload for payload, _ in parts],
                    [None if text is None else text.attempt for _, text in parts],
                )
        except psycopg.Error as error:
            log.warning("partials_lost", partials=len(parts), error=str(error))
            return
        for (_, text), live in zip(parts, sent, strict=True):
            if text is not None and not live:
                text.stop()


class PartialText:
    """A run's text that grows: what is written to it is sent as parts, each with its offset in characters.

    Attributes
    ----------
    attempt
        The run's id, and the attempt that writes it.
    """

    def __init__(self, sender: PartialSender | None, claimed: ClaimedRun, type: str, stream: str) -> None:
        self.attempt = (claimed.id, claimed.attempt)
        self._sender = sender
        self._place = f"{claimed.tenant_id}/{claimed.session_id or f'run:{claimed.id}'}"
        self._type = type
        self._subject = str(claimed.id)
        self._stream = stream
        self._room = MAX_PAYLOAD_BYTES - len(self._payload(10**9, "").encode())
        if self._room < MIN_TEXT_BYTES:
            raise BadValue(f"the names of stream {stream!r} of type {type!r} are too long to be sent with each part")
        self._new: list[str] = []
        self._offset = 0
        self._waits = False
        self._sent = asyncio.Event()
        self._sent.set()

    def write(self, text: str) -> None:
        """Add to what is sent next. Never waits."""
        if self._sender is None or not text:
            return
        self._new.append(text)
        if not self._waits:
            self._waits = True
            self._sent.clear()
            self._sender.add(self)

    def drop(self) -> None:
        """Send nothing more of what was written."""
        self._new = []

    def stop(self) -> None:
        """Send nothing any more: the attempt is over, as it will learn from its next write."""
        self._sender = None
        self.drop()

    async def sent(self) -> None:
        """Wait until all that was written is sent, or lost."""
        await self._sent.wait()

    def take(self) -> Iterator[str]:
        """What is new, as payloads."""
        new, self._new, self._waits = "".join(self._new), [], False
        for part in split(new, self._room):
            yield self._payload(self._offset, part)
            self._offset += len(part)

    def went(self) -> None:
        """What was taken has been sent, or is lost."""
        if not self._waits:
            self._sent.set()

    def _payload(self, offset: int, text: str) -> str:
        data = {"stream": self._stream, "offset": offset, "text": text}
        return f"{self._place} {encode({'type': self._type, 'subject': self._subject, 'data': data}, 'a partial')}"


def split(text: str, room: int) -> Iterator[str]:
    """`text` in parts that are each, as JSON, `room` bytes at most; none ends within a character."""
    if len(text) <= 1 or len(msgspec.json.encode(text)) - 2 <= room:
        if text:
            yield text
        return
    middle = len(text) // 2
    yield from split(text[:middle], room)
    yield from split(text[middle:], room)
