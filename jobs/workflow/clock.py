"""The time, as runs and their worker see it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """The system's clock, or one that is `ahead` of it: tests move it, together with the engine's `engine_now()`."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def by_it(self, moment: datetime) -> datetime:
        """A moment that was reckoned from the system's clock, as a retry strategy does, by this one."""
        return moment + self.ahead
