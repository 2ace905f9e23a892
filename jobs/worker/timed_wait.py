"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio


async def timed_wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` came within `seconds`. (`wait_for` may swallow a cancellation that comes together with it.)"""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
