"""The testing kit: an app's workflows on the real engine, a clock that moves, a worker that dies where it is told to.

Its pytest fixtures are in `howdah.app.pytest_plugin`.
"""

from howdah.jobs.testing.kit import Kit
from howdah.jobs.testing.run_results import Failure, Result, Step

__all__ = ["Failure", "Kit", "Result", "Step"]
