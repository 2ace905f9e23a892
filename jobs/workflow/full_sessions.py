"""Who waits in this process for room in which full session."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

# Each who was told of room and found some has as many more look: a thousand who wait cost an acknowledgement few looks,
# and one of many events lets many go on soon.
MORE = 2


class FullSessions:
    """Wakes those who wait, the longest waiting first.

    Attributes
    ----------
    missed
        How often more were told than waited: who was just looking then may have looked too early.
    """

    def __init__(self) -> None:
        self.missed = 0
        self._waiting: dict[str, OrderedDict[asyncio.Future[None], None]] = {}

    async def wait(self, session: str, seconds: float) -> None:
        """Return when another look whether `session` (tenant/session) has room is due: told, or after `seconds`."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(session, OrderedDict())
        waiting[told] = None
        try:
            async with asyncio.timeout(seconds):
                await told
        except TimeoutError:
            pass
        finally:
            waiting.pop(told, None)
            if not waiting and self._waiting.get(session) is waiting:
                del self._waiting[session]

    def tell(self, session: str, most: int = 1) -> None:
        """Have as many look who wait for `session`; for each session where none is named."""
        for waiting in list(self._waiting.values()) if not session else [self._waiting.get(session, OrderedDict())]:
            for _ in range(most):
                if not waiting:
                    self.missed += 1
                    break
                told, _ = waiting.popitem(last=False)
                if not told.done():
                    told.set_result(None)
