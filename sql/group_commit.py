"""Group commit: concurrent callers add to the open batch and await its transaction; a thousand share one fsync."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

import psycopg

from howdah.sql.errors import from_psycopg
from howdah.sql.reconnect import may_pass, through_reconnects

Item = TypeVar("Item")
Result = TypeVar("Result")

# An item, and who is told: called once, with its result or with why there is none.
_Waiting = tuple[Item, Callable[[Result | BaseException], None]]

# A batch is long enough to share an fsync among many and short enough to answer within milliseconds.
MAX_BATCH = 1000
# A held session or row frees within a transaction's length; asking again at once would spin.
BUSY_PAUSE = 0.005


class Busy:
    """What a flush answers for an item that it could not take now: the item goes into the next batch."""


BUSY = Busy()


class GroupCommit(Generic[Item, Result]):
    """Collects items and writes them batch by batch, one batch in flight at a time.

    Parameters
    ----------
    flush
        Writes a batch in one transaction and answers in the same positions; :data:`BUSY` means again. It must be safe
        to repeat after a lost connection, when nobody knows whether the commit arrived.
    order
        What an item belongs to: items of the same keep their order, also where one of them is busy.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Busy]]],
        *,
        order: Callable[[Item], Hashable] = lambda item: None,
        max_batch: int = MAX_BATCH,
    ) -> None:
        self._flush = flush
        self._order = order
        self._max_batch = max_batch
        self._open: deque[_Waiting[Item, Result]] = deque()
        self._writer: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """Write `item` with the next batch and return its result once that is on disk.

        A caller that is cancelled while it waits does not take its item back: it is written all the same.
        """
        return await self.add(item)

    def add(self, item: Item) -> asyncio.Future[Result]:
        """Add `item` to the open batch; the future is done once it is on disk."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.post(item, partial(_settle, future))
        return future

    def post(self, item: Item, told: Callable[[Result | BaseException], None]) -> None:
        """Add `item` to the open batch; `told` is called with its result, or the error, once that is known.

        For callers who have thousands of items under way: a future and its callback are two turns of the loop each.
        """
        self._open.append((item, told))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def drain(self) -> None:
        """Wait until everything added so far is written."""
        while self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        try:
            # One turn of the loop, so that callers who are ready now share the first batch.
            await asyncio.sleep(0)
            while self._open:
                batch = [self._open.popleft() for _ in range(min(len(self._open), self._max_batch))]
                busy = await self._write_batch(batch)
                # Before anything newer: items of one run keep their order.
                self._open.extendleft(reversed(busy))
                if len(busy) == len(batch):
                    await asyncio.sleep(BUSY_PAUSE)
        finally:
            self._writer = None

    async def _write_batch(self, batch: list[_Waiting[Item, Result]]) -> list[_Waiting[Item, Result]]:
        """Write `batch`; what is to be sent again, in order."""
        try:
            results = await through_reconnects(
                lambda: self._flush([item for item, _ in batch]), f"a flush of {len(batch)} items"
            )
        except asyncio.CancelledError as error:
            for _, told in batch:
                told(error)
            raise
        except Exception as error:
            # One bad item must fail alone: halve until it stands by itself. A database that is away fails them all.
            if len(batch) == 1 or may_pass(error):
                known = from_psycopg(error) if isinstance(error, psycopg.Error) else None
                for _, told in batch:
                    told(known or error)
                return []
            middle = len(batch) // 2
            busy = await self._write_batch(batch[:middle])
            held = {self._order(item) for item, _ in busy}
            free = [waiting for waiting in batch[middle:] if self._order(waiting[0]) not in held]
            follow = [waiting for waiting in batch[middle:] if self._order(waiting[0]) in held]
            return busy + (await self._write_batch(free) if free else []) + follow
        busy = []
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, Busy):
                busy.append(waiting)
            else:
                waiting[1](result)
        return busy


def _settle(future: asyncio.Future[Result], result: Result | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, asyncio.CancelledError):
        future.cancel()
    elif isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
