"""The author's SDK: `App` to declare tasks and workflows, `Run` to make a workflow's steps durable."""

from procrastinate import RetryStrategy

from howdah.jobs.app import App, Workflow
from howdah.jobs.errors import NonRetryableError
from howdah.jobs.run import Run

__all__ = ["App", "NonRetryableError", "RetryStrategy", "Run", "Workflow"]
