"""Answers that may be a little old: remembered for a few seconds, each asked for once at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Answer = TypeVar("Answer")


class Recent(Generic[Key, Answer]):
    """Remembers up to `max_entries` answers for `seconds`; callers who ask at the same time share one question.

    An error is given to all who wait for it and is not remembered.
    """

    def __init__(
        self,
        ask: Callable[[Key], Awaitable[Answer]],
        *,
        seconds: float,
        max_entries: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._max_entries = max_entries
        self._clock = clock
        self._answers: dict[Key, tuple[float, Answer]] = {}
        self._asking: dict[Key, asyncio.Task[Answer]] = {}

    async def get(self, key: Key, max_age: float | None = None) -> Answer:
        """The answer for `key`, not older than `max_age` seconds (None: than the default)."""
        remembered = self._answers.get(key)
        if remembered is not None and self._clock() - remembered[0] < (self._seconds if max_age is None else max_age):
            return remembered[1]
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._renew(key))
        # One caller who gives up must not take the answer away from the others.
        return await asyncio.shield(asking)

    def clear(self) -> None:
        """Forget everything, also what is being asked now."""
        self._answers.clear()
        self._asking.clear()

    async def _renew(self, key: Key) -> Answer:
        me = asyncio.current_task()
        asked_at = self._clock()
        try:
            answer = await self._ask(key)
        finally:
            current = self._asking.get(key) is me
            if current:
                del self._asking[key]
        if current:
            self._answers.pop(key, None)
            while len(self._answers) >= self._max_entries:
                del self._answers[next(iter(self._answers))]
            self._answers[key] = (asked_at, answer)
        return answer
