"""A client that never stays: it reads a stream for a moment, goes to another process, and says what it saw last."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import httpx
from httpx_sse import EventSource

STAY = (0.1, 3.0)  # seconds, at random
PAUSE = 0.1  # seconds, after an answer that is none
TIMEOUT = httpx.Timeout(5.0, read=30.0)
AGAIN = {500, 502, 503}  # the database is away, or the process is full


class Hopper:
    """Reads one session to its end, over connections to processes at random.

    Attributes
    ----------
    read
        (number, type, data) of each event, as they came.
    streams
        How many it has begun.
    faults
        Sentences about what a stream said that it may not.
    """

    def __init__(self, session: str, headers: dict[str, str], urls: Callable[[], list[str]]) -> None:
        self.session = session
        self.read: list[tuple[int, str, Any]] = []
        self.streams = 0
        self.faults: list[str] = []
        self._headers = {**headers, "Accept": "text/event-stream"}
        self._urls = urls
        self._last_id = ""
        self._ended = False

    async def read_all(self) -> None:
        """Read until the stream says that the session is closed and all is read."""
        async with httpx.AsyncClient(headers=self._headers, timeout=TIMEOUT) as client:
            while not self._ended:
                try:
                    async with asyncio.timeout(random.uniform(*STAY)):
                        await self._stay(client, random.choice(self._urls()))
                except TimeoutError:
                    pass  # It has stayed long enough, wherever in an event that was.
                except httpx.HTTPError:
                    await asyncio.sleep(PAUSE)

    async def _stay(self, client: httpx.AsyncClient, url: str) -> None:
        parameters, headers = {}, {}
        if self._last_id:
            if random.random() < 0.5:
                headers["Last-Event-ID"] = self._last_id
            else:
                parameters["last_event_id"] = self._last_id
        async with client.stream(
            "GET", f"{url}/v1/sessions/{self.session}/events", params=parameters, headers=headers
        ) as response:
            if response.status_code == 204:
                self._ended = True
                return
            if response.status_code != 200:
                if response.status_code not in AGAIN:
                    self.faults.append(f"{self.session}: status {response.status_code}")
                await asyncio.sleep(PAUSE)
                return
            self.streams += 1
            async for event in EventSource(response).aiter_sse():
                self._take(event.event, event.data)
                self._last_id = event.id or self._last_id
                if self._ended:
                    return
                if random.random() < 0.01:
                    await asyncio.sleep(random.uniform(0.0, 0.5))  # It is slow at times.

    def _take(self, name: str, data: str) -> None:
        if name == "howdah.end":
            self._ended = True
        elif name.startswith("howdah."):
            self.faults.append(f"{self.session}, after {len(self.read)} events: {name} {data}")
        elif data:
            told = json.loads(data)
            self.read.append((int(told["sequence"]), told["type"], told["data"]))
