"""The author's SDK: `App` to declare tasks and workflows, `Run` to make a workflow's steps durable."""

from howdah.jobs.app import App, Workflow
from howdah.jobs.errors import (
    ChildrenFailedError,
    DeadlineExceededError,
    HistoryContradictedError,
    NonRetryableError,
    SignalTimeoutError,
)
from howdah.jobs.retry import RetryStrategy
from howdah.jobs.workflow.run import Run
from howdah.jobs.workflow.session_events import SessionEvent

__all__ = [
    "App",
    "ChildrenFailedError",
    "DeadlineExceededError",
    "HistoryContradictedError",
    "NonRetryableError",
    "RetryStrategy",
    "Run",
    "SessionEvent",
    "SignalTimeoutError",
    "Workflow",
]
