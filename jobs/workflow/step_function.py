"""Calling a step's function: its thread, its time-out, its own retries, and the type that it returns."""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import msgspec
from procrastinate import jobs
from procrastinate.retry import BaseRetryStrategy

from howdah.jobs.errors import NonRetryableError
from howdah.jobs.workflow.clock import Clock
from howdah.sql.queue.calls import ClaimedRun


async def call(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    threads: ThreadPoolExecutor,
    timeout: timedelta | None,
) -> Any:
    """What `function` returns. One that is not async runs in a thread, which a time-out leaves behind."""
    if timeout is None:
        return await _call(function, args, kwargs, threads)
    async with asyncio.timeout(timeout.total_seconds()):
        return await _call(function, args, kwargs, threads)


async def _call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], threads: ThreadPoolExecutor
) -> Any:
    if inspect.iscoroutinefunction(unwrap(function)):
        return await function(*args, **kwargs)
    loop = asyncio.get_running_loop()
    output = await loop.run_in_executor(threads, functools.partial(function, *args, **kwargs))
    return await output if inspect.isawaitable(output) else output


def retry_at(
    strategy: BaseRetryStrategy, error: Exception, claimed: ClaimedRun, step: str, failures: int, clock: Clock
) -> datetime | None:
    """When a step that has failed `failures` times before is tried again; None: it is not."""
    if isinstance(error, NonRetryableError):
        return None
    job = jobs.Job(
        id=claimed.id,
        queue=claimed.queue,
        lock=None,
        queueing_lock=None,
        task_name=f"{claimed.task}/{step}",
        attempts=failures,
        status="doing",
    )
    decision = strategy.get_retry_decision(exception=error, job=job)
    if decision is None:
        return None
    return clock.now() if decision.retry_at is None else clock.by_it(decision.retry_at)


def unwrap(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def output_decoder(function: Callable[..., Any]) -> msgspec.json.Decoder[Any]:
    """Decoder of what `function` returns.

    Looked up before the first run too, so that an annotation that cannot be resolved fails at once, not at a recovery.
    """
    plain = unwrap(function)
    plain = getattr(plain, "__func__", plain)
    # Closures made in a loop share their code: one entry serves them all, and none is kept alive.
    key = (getattr(plain, "__code__", None) or type(plain), getattr(plain, "__annotations__", {}).get("return", Any))
    decoder = _decoders.get(key)
    if decoder is None:
        try:
            hints = typing.get_type_hints(plain if hasattr(plain, "__code__") else type(plain).__call__)
        except NameError as error:
            raise TypeError(
                f"the return annotation of {plain!r} cannot be resolved ({error}): steps need types of module level"
            ) from error
        decoder = _decoders[key] = msgspec.json.Decoder(hints.get("return", Any))
    return decoder


_decoders: dict[tuple[Any, Any], msgspec.json.Decoder[Any]] = {}
