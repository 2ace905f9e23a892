"""A call of an outside API as a step, which may rest where the API asks to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from howdah.jobs.api.errors import ApiCallFailed, RetryLater
from howdah.jobs.api.executor import ApiExecutor, ApiResponse
from howdah.jobs.workflow.history import History, passed, place
from howdah.jobs.workflow.steps import Steps


async def call(
    api: ApiExecutor,
    history: History,
    steps: Steps,
    name: str,
    idempotency_key: Callable[[str], str],
    max_attempts: int,
    method: str,
    url: str,
    **options: Any,
) -> ApiResponse:
    """The API's response; errors as for `ApiExecutor.request`."""
    step, after = history.number(name), place()
    # Attempts made before the run slept are on disk too, or an API that always says wait would never be given up.
    pauses = 0
    while (used := history.peek(f"{step}#paused-{pauses + 1}")) is not None:
        max_attempts -= int(used)
        pauses += 1

    async def request() -> ApiResponse:
        return await api.request(
            method, url, max_attempts=max(max_attempts, 1), idempotency_key=idempotency_key(step), **options
        )

    try:
        response: ApiResponse = await steps.run(step, after, request, (), {})
    except RetryLater as later:
        await steps.keep(f"{step}#paused-{pauses + 1}", None, str(later.attempts))
        if later.attempts >= max_attempts:
            raise ApiCallFailed(
                f"{later}; no attempt is left", status=later.status, body_excerpt="", attempts=later.attempts
            ) from later
        raise
    passed(step)
    return response
