"""What an author's code may raise to steer its run."""

from __future__ import annotations


class NonRetryableError(Exception):
    """Fails the run at once, whatever its retry strategy: trying again would end the same way."""


class DeadlineExceededError(NonRetryableError):
    """The run's deadline has passed: it tidies up, and may wait for nothing more."""


class HistoryContradictedError(NonRetryableError):
    """The run's code asks for other steps than those that an earlier attempt of it has finished."""


class StepFailedError(Exception):
    """A step failed in an earlier attempt, with an error whose class cannot be found any more."""


class SignalTimeoutError(TimeoutError):
    """The signal that a run waited for did not come in time."""


class ChildrenFailedError(Exception):
    """Children of a run failed or were cancelled, when all of them had ended.

    Attributes
    ----------
    failures
        What went wrong, by the child's place.
    """

    def __init__(self, message: str, failures: dict[int, str]) -> None:
        super().__init__(message)
        self.failures = failures
