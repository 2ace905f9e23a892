"""What every reader gets now and then: a sign of life, a look at the log, a look at its pace.

Readers are dealt out to as many hands as there are seconds between signs of life; each second is another hand's turn,
so that ten thousand streams are not written to in one instant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import structlog

from howdah.app.realtime import frames
from howdah.app.realtime.reader import Reader, Seat

log = structlog.get_logger(__name__)

# Proxies commonly close a connection on which nothing came for 30 or 60 s.
HANDS = 16
TURN_SECONDS = 1.0
# Every so many turns the log is looked at for each reader, in case that a hint was lost.
POLL_TURNS = 4
# A client that takes nothing for so long is let go; it resumes by its last id.
SLOW_SECONDS = 20.0


class Rounds:
    """Goes round the readers of a process.

    Parameters
    ----------
    look
        Given the seats whose turn it is, looks at the log for them.
    deaf
        No hints arrive at all: then every turn looks for everyone.
    """

    def __init__(self, look: Callable[[list[Seat]], Awaitable[None]], *, deaf: bool) -> None:
        self._look = look
        self._poll_turns = 1 if deaf else POLL_TURNS
        self._hands: list[set[Reader]] = [set() for _ in range(HANDS)]
        self._hand_of: dict[Reader, int] = {}
        self.slow = 0

    def __len__(self) -> int:
        return len(self._hand_of)

    def __contains__(self, reader: Reader) -> bool:
        return reader in self._hand_of

    def readers(self) -> Iterator[Reader]:
        """All of them."""
        return iter(list(self._hand_of))

    def add(self, reader: Reader) -> None:
        """Take a reader in."""
        least = min(range(HANDS), key=lambda hand: len(self._hands[hand]))
        self._hands[least].add(reader)
        self._hand_of[reader] = least

    def remove(self, reader: Reader) -> None:
        """Leave a reader out."""
        self._hands[self._hand_of.pop(reader)].discard(reader)

    async def run(self) -> None:
        """Give signs of life, and let go of who is slow, until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(TURN_SECONDS)
            turn += 1
            for reader in self._hands[turn % HANDS]:
                self._give_sign_of_life(reader)
            for hand in self._hands:
                for reader in hand:
                    if reader.sending_since:
                        self._judge(reader)

    async def poll(self) -> None:
        """Look at the log until cancelled; apart, as a look takes long while the database is away."""
        turn = 0
        while True:
            await asyncio.sleep(TURN_SECONDS)
            turn += 1
            polled = [hand for number, hand in enumerate(self._hands) if (number + turn) % self._poll_turns == 0]
            await self._look(
                [
                    seat
                    for hand in polled
                    for reader in hand
                    for seat in reader.seats
                    if not seat.behind and seat.state != "closed"
                ]
            )

    def _give_sign_of_life(self, reader: Reader) -> None:
        if reader.full or reader.end is not None:
            return
        if reader.passed_over:
            reader.passed_over = False
            reader.push(frames.marker(reader.id))
        else:
            reader.push(frames.ALIVE)

    def _judge(self, reader: Reader) -> None:
        """Let a client go that takes too little. What it missed is in the log; it is told so, should it read on."""
        if reader.end is None and asyncio.get_running_loop().time() - reader.sending_since > SLOW_SECONDS:
            self.slow += 1
            log.info("stream_too_slow", sessions=[seat.name for seat in reader.seats[:3]])
            reader.drop()
            reader.finish("slow")
