"""The author's SDK: `App` to declare tasks and workflows, `Run` to make a workflow's steps durable."""

from howdah.jobs.app import App, Workflow
from howdah.jobs.errors import DeadlineExceededError, NonRetryableError
from howdah.jobs.retry import RetryStrategy
from howdah.jobs.run import Run

__all__ = ["App", "DeadlineExceededError", "NonRetryableError", "RetryStrategy", "Run", "Workflow"]
