"""The benchmark's handle on a swarm of clients of event streams: connect, wait, read what arrived when."""

from __future__ import annotations

import asyncio
import resource
import socket
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

from tests.bench.process import Module, started_module

# Connections being opened at a time, where that is not what is measured: fewer than a listener's backlog.
AT_ONCE = 200
SPARE_FILES = 200  # a process has others than its connections


class StreamClients:
    """Clients in a process of their own, each of one stream.

    Every method raises RuntimeError if a client saw a gap or a repeat, was refused, or lost its connection.
    """

    def __init__(self, module: Module, control: Connection[Any, Any], url: str, key: str) -> None:
        self._module = module
        self._control = control
        self._url = urlsplit(url)
        self._key = key
        self._clients = 0

    async def connect(self, paths: Sequence[str]) -> None:
        """A client for each of `paths`; returns when the streams of all have begun."""
        head = f"Host: {self._url.netloc}\r\nAuthorization: Bearer {self._key}\r\nAccept: text/event-stream\r\n"
        self._clients += len(paths)
        await self._live("connect", self._url.hostname, self._url.port, head, list(paths), AT_ONCE)

    async def leave(self) -> None:
        """Close all connections."""
        await self._ask("leave")

    async def reconnect(self, received: int) -> None:
        """Connect all again at the same time, each with the last id that it saw, until `received` events have come."""
        got = await self._live("reconnect", received)
        if got < received:
            raise RuntimeError(f"{received:,} events were to be read, and {got:,} were")

    async def wait(self, received: int, seconds: float) -> None:
        """Return when the clients have read `received` events in all, counted from the first connection on."""
        _, got, faults = await self._ask("wait", received, seconds)
        if faults or got < received:
            raise RuntimeError(f"{received:,} events were to be read, and {got:,} were; {'; '.join(faults)}")

    async def take(self) -> list[tuple[int, array[int]]]:
        """For each client: the number of the first event since the last time, and when each was read, in ns of Unix."""
        taken: list[tuple[int, array[int]]] = await self._ask("take")
        return taken

    async def cpu_seconds(self) -> float:
        """What the process has used."""
        used: float = await self._ask("cpu")
        return used

    async def _live(self, *question: Any) -> int:
        live, received, faults = await self._ask(*question)
        if faults or live < self._clients:
            raise RuntimeError(f"{live:,} of {self._clients:,} streams have begun; {'; '.join(faults)}")
        count: int = received
        return count

    async def _ask(self, *question: Any) -> Any:
        return await asyncio.to_thread(self._asked, question)

    def _asked(self, question: tuple[Any, ...]) -> Any:
        try:
            self._control.send(question)
            return self._control.recv()
        except (EOFError, OSError):
            # It has died: this tells of what.
            return self._module.line()


@contextmanager
def stream_clients(url: str, key: str) -> Iterator[StreamClients]:
    """Clients of the API at `url`; none is connected yet."""
    ours, theirs = socket.socketpair()
    with started_module("stream_swarm", theirs.fileno(), pass_fds=[theirs.fileno()]) as module:
        theirs.close()
        control: Connection[Any, Any] = Connection(ours.detach())
        with control:
            yield StreamClients(module, control, url, key)


def allow_connections(count: int) -> None:
    """Let this process, and those that it starts from now on, have so many connections open.

    Raises
    ------
    RuntimeError
        If the limit of open files cannot be raised that far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE_FILES
    if soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
        except (ValueError, OSError) as error:
            raise RuntimeError(
                f"{count:,} connections need {needed:,} open files and {hard:,} are allowed: raise `ulimit -Hn`"
            ) from error
