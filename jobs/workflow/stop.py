"""Why a running run is asked to stop."""

from __future__ import annotations

import enum


class Stop(enum.Enum):
    """What is told before its task is cancelled."""

    CANCELLED = "cancelled"  # somebody cancelled the run: its code may tidy up, durably
    EXPIRED = "expired"  # its deadline has passed: as CANCELLED, and it has failed
    SHUTDOWN = "shutdown"  # the worker is leaving: the run goes back to the queue
    LOST = "lost"  # peers gave this worker up, or a write was refused: the run is another's by now
    RESTING = "resting"  # the run waits as a row now, and may be another's as soon as that has come

    @property
    def may_tidy_up(self) -> bool:
        """Whether the run is still this attempt's, so that what it does as it stops is kept."""
        return self in (Stop.CANCELLED, Stop.EXPIRED)
