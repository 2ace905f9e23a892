"""Seats for which the log is to be read, in the order in which that became known."""

from __future__ import annotations

import asyncio
from collections import deque

from howdah.app.realtime.reader import Seat

Places = dict[tuple[str, str, int], list[Seat]]


class Due:
    """A queue in which each seat stands once.

    Parameters
    ----------
    places, events
        One catch-up query: places looked at, and events returned in all, at most.
    """

    def __init__(self, places: int, events: int) -> None:
        self._places = places
        self._events = events
        self._order: deque[Seat] = deque()
        self._seats: set[Seat] = set()
        self._any = asyncio.Event()

    def __contains__(self, seat: Seat) -> bool:
        return seat in self._seats

    def add(self, seat: Seat) -> None:
        """Put a seat at the end, if it does not stand here yet."""
        if seat not in self._seats:
            self._seats.add(seat)
            self._order.append(seat)
            self._any.set()

    def discard(self, seat: Seat) -> None:
        """Take a seat out."""
        self._seats.discard(seat)

    async def take(self) -> Places:
        """The next seats to read for, by their places, once there are any; they are out then: what is committed after
        the query's snapshot puts them in again.
        """
        places: Places = {}
        while not places:
            if not self._order:
                self._any.clear()
                await self._any.wait()
            while self._order:
                seat = self._order[0]
                if seat in self._seats and seat.place not in places and len(places) == self._places:
                    break
                self._order.popleft()
                if seat not in self._seats:
                    continue
                self._seats.discard(seat)
                if seat.reader.full:
                    seat.behind = True
                elif seat.reader.end is None:
                    places.setdefault(seat.place, []).append(seat)
        return places

    def limit(self, places: Places) -> int:
        """How many events a query for these may return of each."""
        return max(1, self._events // len(places))
