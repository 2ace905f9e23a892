"""Seats for which the log is to be read, in the order in which that became known."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

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
        # Whoever goes leaves nothing here, also while the database is away and nobody is taken.
        self._seats: OrderedDict[Seat, None] = OrderedDict()
        self._any = asyncio.Event()

    def __contains__(self, seat: Seat) -> bool:
        return seat in self._seats

    def add(self, seat: Seat) -> None:
        """Put a seat at the end, if it does not stand here yet."""
        if seat not in self._seats:
            self._seats[seat] = None
            self._any.set()

    def discard(self, seat: Seat) -> None:
        """Take a seat out."""
        self._seats.pop(seat, None)

    async def take(self) -> Places:
        """The next seats to read for, by their places, once there are any; they are out then: what is committed after
        the query's snapshot puts them in again.
        """
        places: Places = {}
        while not places:
            if not self._seats:
                self._any.clear()
                await self._any.wait()
            while self._seats:
                seat = next(iter(self._seats))
                if seat.place not in places and len(places) == self._places:
                    break
                del self._seats[seat]
                if seat.reader.full:
                    seat.behind = True
                elif seat.reader.end is None:
                    places.setdefault(seat.place, []).append(seat)
        return places

    def limit(self, places: Places) -> int:
        """How many events a query for these may return of each."""
        return max(1, self._events // len(places))
