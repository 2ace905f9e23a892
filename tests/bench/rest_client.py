"""A client process that posts over 64 connections and prints how many answers it got, and the seconds it took.

``python -m tests.bench.rest_client API_URL KEY PATH BODY DATABASE_URL REQUESTS``, where ``{}`` in PATH is the number of
the connection.

It speaks no more HTTP than it must, so that the cores are the server's. The clock is the database's; the first
requests, which open connections and prepare statements, are not in the time.
"""

from __future__ import annotations

import asyncio
import re
import sys
from urllib.parse import urlsplit

import psycopg
import uvloop

from tests.bench.callers import CALLERS, WARM_UP
from tests.bench.database import database_time
from tests.bench.process import run_module

ROUND_SECONDS = 120.0
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Connection:
    """One kept-alive connection, with one request at a time under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._request = request

    async def post(self) -> None:
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = LENGTH.search(head)
        if length is None:
            raise RuntimeError(f"an answer without a length: {head.decode(errors='replace')}")
        body = await self._reader.readexactly(int(length[1]))
        if not head.startswith(b"HTTP/1.1 201 "):
            raise RuntimeError(f"not created: {(head + body).decode(errors='replace')}")

    async def post_from(self, left: list[None]) -> None:
        """Post as long as there is something left."""
        while left:
            left.pop()
            await self.post()


def post_over_rest(api_url: str, key: str, path: str, body: str, database_url: str, requests: int) -> tuple[int, float]:
    """What such a process prints: (requests answered by 201, seconds that `requests` of them took)."""
    arguments = (api_url, key, path, body, database_url, requests)
    answered, seconds = run_module("rest_client", *arguments, seconds=ROUND_SECONDS).split()
    return int(answered), float(seconds)


async def post(api_url: str, key: str, path: str, body: bytes, database_url: str, requests: int) -> float:
    """Seconds that `requests` took, after `WARM_UP` that are not in it."""
    host = urlsplit(api_url)
    head = (
        f" HTTP/1.1\r\nHost: {host.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    streams = [await asyncio.open_connection(host.hostname, host.port) for _ in range(CALLERS)]
    connections = [
        Connection(reader, writer, f"POST {path.format(number)}{head}".encode() + body)
        for number, (reader, writer) in enumerate(streams)
    ]
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as clock:
        await _post_all(connections, WARM_UP)
        started_at = await database_time(clock)
        await _post_all(connections, requests)
        seconds = (await database_time(clock) - started_at).total_seconds()
    for _, writer in streams:
        writer.close()
    return seconds


async def _post_all(connections: list[Connection], requests: int) -> None:
    left = [None] * requests
    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(connection.post_from(left))


def main() -> None:
    api_url, key, path, body, database_url, requests = sys.argv[1:]
    seconds = uvloop.run(post(api_url, key, path, body.encode(), database_url, int(requests)))
    print(int(requests) + WARM_UP, seconds)


if __name__ == "__main__":
    main()
