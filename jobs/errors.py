"""What an author's code may raise to steer its run."""

from __future__ import annotations


class NonRetryableError(Exception):
    """Fails the run at once, whatever its retry strategy: trying again would end the same way."""


class DeadlineExceededError(NonRetryableError):
    """The run's deadline passed before it ended."""
