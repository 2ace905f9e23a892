"""How many streams a process has at most: in all, for one tenant, for one key."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

# Whoever is turned away comes back within this time, in seconds, jittered: a storm is not repeated in one instant.
COME_BACK = (5, 15)


class NoRoom(Exception):
    """There are as many streams as there may be. `retry_after` is in seconds."""

    def __init__(self, whose: str, most: int) -> None:
        super().__init__(f"{whose} has {most:,} streams open here, as many as it may: close some, or come back later")
        self.retry_after = random.randint(*COME_BACK)  # noqa: S311 - spreads load, hides nothing


@dataclass(slots=True)
class Admission:
    """Counts the streams of this process; every process counts its own.

    Attributes
    ----------
    refused
        How many were turned away, by the limit that they met.
    """

    per_process: int
    per_tenant: int
    per_key: int
    refused: Counter[str] = field(default_factory=Counter)
    _open: Counter[str] = field(default_factory=Counter)

    def enter(self, tenant_id: str, key_id: str) -> Place:
        """Room for one more stream, to be left once it ends.

        Raises
        ------
        NoRoom
            If that would be one too many.
        """
        asked = (
            ("process", "this process", "", self.per_process),
            ("tenant", f"tenant {tenant_id!r}", f"tenant {tenant_id}", self.per_tenant),
            ("key", "this key", f"key {key_id}", self.per_key),
        )
        for limit, whose, name, most in asked:
            if self._open[name] >= most:
                self.refused[limit] += 1
                raise NoRoom(whose, most)
        names = tuple(name for _, _, name, _ in asked)
        self._open.update(names)
        return Place(self._open, names)


class Place:
    """One stream's place among those that may be open."""

    __slots__ = ("_names", "_open")

    def __init__(self, open_: Counter[str], names: tuple[str, ...]) -> None:
        self._open = open_
        self._names = names

    def leave(self) -> None:
        """Give it back; a second time changes nothing."""
        for name in self._names:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
        self._names = ()
