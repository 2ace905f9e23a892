"""The outside API of the demo: a receiver on loopback that first says 429 with Retry-After, then 500, then takes it."""

from __future__ import annotations

import asyncio
from types import TracebackType

RETRY_AFTER_SECONDS = 1
_ANSWERS = (
    f"HTTP/1.1 429 Too Many Requests\r\nRetry-After: {RETRY_AFTER_SECONDS}\r\n",
    "HTTP/1.1 500 Internal Server Error\r\n",
)
_TAKEN = "HTTP/1.1 201 Created\r\n"


class Receiver:
    """A server on a free port of loopback. `answers` lists the statuses given, `received` the bodies taken."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.keys: set[str] = set()
        self.received: list[bytes] = []
        self.url = ""

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/reports"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.keys.add(headers.get("idempotency-key", ""))
        answer = _ANSWERS[len(self.answers)] if len(self.answers) < len(_ANSWERS) else _TAKEN
        if answer is _TAKEN:
            self.received.append(body)
        self.answers.append(int(answer.split()[1]))
        writer.write(f"{answer}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
