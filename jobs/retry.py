"""When a failed run is tried again: procrastinate's strategy with a bound and jitter, also as a single run's own."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import attr
import msgspec
import procrastinate
from procrastinate.jobs import Job
from procrastinate.retry import BaseRetryStrategy, RetryDecision, RetryValue, get_retry_strategy

from howdah.sql.errors import BadValue


@attr.dataclass(kw_only=True)
class RetryStrategy(procrastinate.RetryStrategy):
    """procrastinate's strategy, and two fields more.

    The wait is ``wait + linear_wait × failures + exponential_wait ** (failures + 1)`` seconds, then at most `max_wait`,
    then lengthened at random by up to `jitter` of it, so that runs which failed together do not come back together.
    """

    max_wait: float | None = None
    jitter: float = 0.0

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if self.max_attempts is not None and job.attempts >= self.max_attempts:
            return None
        decision = super().get_retry_decision(exception=exception, job=job)
        if decision is None or decision.retry_at is None:
            return decision
        now = datetime.now(UTC)
        seconds = (decision.retry_at - now).total_seconds()
        if self.max_wait is not None:
            seconds = min(seconds, self.max_wait)
        seconds *= 1 + self.jitter * random.random()  # noqa: S311
        return RetryDecision(retry_at=now + timedelta(seconds=max(0.0, seconds)))


class _Override(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A run's own strategy; times in seconds. `max_attempts` 0: never again."""

    max_attempts: int | None = None
    wait: int = 0
    linear_wait: int = 0
    exponential_wait: int = 0
    max_wait: float | None = None
    jitter: float = 0.0


def override_json(retry: RetryValue) -> str | None:
    """What `enqueue_runs` takes as a run's own retry strategy; None for False, which is the task's own.

    Raises
    ------
    BadValue
        If the strategy is the author's own class, or names exceptions: a run carries numbers only.
    """
    strategy = get_retry_strategy(retry)
    if strategy is None:
        return None
    if not isinstance(strategy, procrastinate.RetryStrategy) or strategy.retry_exceptions:
        raise BadValue(f"{strategy!r} cannot go with a single run: give a RetryStrategy without retry_exceptions")
    fields: dict[str, Any] = {name: getattr(strategy, name, None) for name in _Override.__struct_fields__}
    return msgspec.json.encode(_Override(**{k: v for k, v in fields.items() if v is not None})).decode()


def read_override(text: str) -> BaseRetryStrategy:
    """The strategy that a run carries.

    Raises
    ------
    BadValue
        If it is none.
    """
    try:
        override = msgspec.json.decode(text, type=_Override)
    except msgspec.ValidationError as error:
        raise BadValue(f"{text} is no retry strategy: {error}") from error
    return RetryStrategy(**msgspec.structs.asdict(override))
