"""A small client of Howdah's own REST and event streams, which moves to another API process when one is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
from httpx_sse import aconnect_sse

# Another process answers at once, or none does: a few rounds over all of them are enough.
ROUNDS = 40
PAUSE_SECONDS = 0.25
REQUEST_SECONDS = 90.0


class ApiProblem(RuntimeError):
    """The API refused; the message is the problem's own."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or f"status {status}")
        self.status = status
        self.problem = problem


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """An event as it came: its number in the session, and from which process."""

    seq: int
    type: str
    data: Any
    run_id: str | None
    base_url: str


class HowdahClient:
    """Talks to any of `base_urls` with a key.

    Attributes
    ----------
    moved
        How often a stream went on from another process.
    """

    def __init__(self, base_urls: Sequence[str], key: str) -> None:
        self._bases = list(base_urls)
        self._http = httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=REQUEST_SECONDS)
        self.moved = 0

    async def __aenter__(self) -> HowdahClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a successful answer; None where there is none.

        Raises
        ------
        ApiProblem
            If the API answers with a problem.
        httpx.HTTPError
            If no process can be reached.
        """
        response = await self._reach(method, path, **options)
        if response.is_error:
            try:
                problem = response.json()
            except ValueError:
                problem = {"title": response.text[:200]}
            raise ApiProblem(response.status_code, problem)
        return response.json() if response.content else None

    async def content(self, path: str) -> bytes:
        """The body of a successful answer as it is."""
        response = await self._reach("GET", path)
        if response.is_error:
            raise ApiProblem(response.status_code, {"title": response.text[:200]})
        return response.content

    async def events(self, session: str) -> AsyncIterator[StreamedEvent]:
        """The session's events from the first until it is closed; a lost stream goes on elsewhere, by the last id."""
        last_id = ""
        failures = 0
        base = self._bases[0]
        while failures < ROUNDS:
            try:
                headers = {"Last-Event-ID": last_id} if last_id else {}
                url = f"{base}/v1/sessions/{session}/events"
                timeout = httpx.Timeout(REQUEST_SECONDS, connect=2.0)
                async with aconnect_sse(self._http, "GET", url, headers=headers, timeout=timeout) as source:
                    if source.response.status_code == httpx.codes.NO_CONTENT:
                        return
                    source.response.raise_for_status()
                    async for sse in source.aiter_sse():
                        failures = 0
                        last_id = sse.id or last_id
                        if sse.event == "howdah.end":
                            return
                        if sse.event == "message" and sse.data:
                            yield _event(sse.data, base)
            except httpx.HTTPError:
                failures += 1
                await asyncio.sleep(PAUSE_SECONDS if failures > len(self._bases) else 0)
            self.moved += 1
            base = self._bases[(self._bases.index(base) + 1) % len(self._bases)]

    async def _reach(self, method: str, path: str, **options: Any) -> httpx.Response:
        for attempt in range(ROUNDS):
            try:
                return await self._http.request(method, self._bases[0] + path, **options)
            except httpx.TransportError:
                if attempt == ROUNDS - 1:
                    raise
                self._bases.append(self._bases.pop(0))
                await asyncio.sleep(PAUSE_SECONDS if attempt >= len(self._bases) else 0)
        raise AssertionError


def _event(data: str, base_url: str) -> StreamedEvent:
    event = msgspec.json.decode(data)
    return StreamedEvent(int(event["sequence"]), event["type"], event.get("data"), event.get("subject"), base_url)
