"""Thousands of clients of event streams in one process, on raw sockets.

``python -m tests.bench.stream_swarm FD``, where FD is one end of a socket pair; `tests.bench.stream_clients` has the
other and tells what it asks.

It parses no more than it must, so that the cores are the server's: of each event its number, which must be one above
the last of the same client, and the time at which it was read.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time
from array import array
from collections import deque
from multiprocessing.connection import Connection
from typing import Any

SEQUENCE = re.compile(rb'"sequence":"(\d{20})"')
OK = b"HTTP/1.1 200 "
READ_BYTES = 1 << 16
MAX_FAULTS = 20  # told in words; more say nothing new
# As long as one that a browser gives up on; connections that the server's backlog refused are tried again after 1, 3
# and 7 s.
CONNECT_SECONDS = 60.0


class Client:
    """One connection and what came over it."""

    __slots__ = ("arrivals", "first", "last_id", "live", "path", "request", "rest", "seen", "socket")

    def __init__(self, path: str) -> None:
        self.path = path
        self.socket: socket.socket | None = None
        self.request = b""
        self.rest = b""
        self.live = False
        self.last_id = b""
        self.seen = 0
        self.forget()

    def forget(self) -> None:
        """Begin a new list of arrivals, in ns, of which the first is of the event after the last one seen."""
        self.first = self.seen + 1
        self.arrivals = array("q")


class Swarm:
    """Reads all connections, and answers one question at a time once what it waits for has come.

    Attributes
    ----------
    received
        Events read so far.
    live
        Clients whose stream has begun.
    faults
        Gaps, repeats, refusals and lost connections, in words.
    """

    def __init__(self, control: Connection) -> None:
        self.received = 0
        self.live = 0
        self.faults: list[str] = []
        self._control = control
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._address = ("", 0)
        self._head = ""
        self._clients: list[Client] = []
        self._by_fd: dict[int, Client] = {}
        self._closed: deque[Client] = deque()
        self._opening = 0
        self._at_once = 0
        # What an answer waits for: until then, or so many.
        self._deadline: float | None = None
        self._live_wanted = 0
        self._received_wanted = 0

    def run(self) -> None:
        """Serve until the other end is closed."""
        control = self._control.fileno()
        while True:
            for fd, event in self._epoll.poll(self._patience(), 4096):
                if fd == control:
                    try:
                        name, *arguments = self._control.recv()
                    except EOFError:
                        return
                    getattr(self, f"_do_{name}")(*arguments)
                elif (client := self._by_fd.get(fd)) is None:
                    pass  # It was told to leave in this round.
                elif event & select.EPOLLOUT:
                    self._ask(client)
                else:
                    self._read(client)
            self._open_some()
            self._answer_if_done()

    def _patience(self) -> float:
        return 1.0 if self._deadline is None else max(0.0, min(1.0, self._deadline - time.monotonic()))

    # What can be asked

    def _do_connect(self, host: str, port: int, head: str, paths: list[str], at_once: int) -> None:
        self._address, self._head = (host, port), head
        added = [Client(path) for path in paths]
        self._clients += added
        self._connect(added, at_once)

    def _do_reconnect(self, received: int) -> None:
        """Connect all again in one go, each from its last id, until all have begun and so many events have come."""
        self._connect(self._clients, len(self._clients))
        self._received_wanted = received

    def _connect(self, clients: list[Client], at_once: int) -> None:
        self._closed.extend(clients)
        self._at_once = at_once
        self._live_wanted = len(self._clients)
        self._deadline = time.monotonic() + CONNECT_SECONDS

    def _do_wait(self, received: int, seconds: float) -> None:
        self._received_wanted = received
        self._deadline = time.monotonic() + seconds

    def _do_leave(self) -> None:
        for client in self._clients:
            if client.socket is not None:
                self._close(client)
        self._deadline = time.monotonic()

    def _do_take(self) -> None:
        taken = [(client.first, client.arrivals) for client in self._clients]
        for client in self._clients:
            client.forget()
        self._control.send(taken)

    def _do_cpu(self) -> None:
        self._control.send(time.process_time())

    def _answer_if_done(self) -> None:
        if self._deadline is None:
            return
        done = self.received >= self._received_wanted and self.live >= self._live_wanted
        if done or self.faults or time.monotonic() >= self._deadline:
            self._deadline, self._live_wanted, self._received_wanted = None, 0, 0
            self._control.send((self.live, self.received, self.faults))

    # Connections

    def _open_some(self) -> None:
        while self._closed and self._opening < self._at_once:
            client = self._closed.popleft()
            client.socket = opened = socket.socket()
            opened.setblocking(False)
            opened.connect_ex(self._address)
            last = f"Last-Event-ID: {client.last_id.decode()}\r\n" if client.last_id else ""
            client.request = f"GET {client.path} HTTP/1.1\r\n{self._head}{last}\r\n".encode()
            client.rest, client.live = b"", False
            self._by_fd[opened.fileno()] = client
            self._epoll.register(opened.fileno(), select.EPOLLOUT)
            self._opening += 1

    def _ask(self, client: Client) -> None:
        assert client.socket is not None
        try:
            client.socket.sendall(client.request)
        except OSError as error:
            self._lose(client, str(error))
        else:
            self._epoll.modify(client.socket.fileno(), select.EPOLLIN)

    def _read(self, client: Client) -> None:
        assert client.socket is not None
        try:
            data = client.socket.recv(READ_BYTES)
        except OSError as error:
            self._lose(client, str(error))
            return
        now = time.time_ns()
        if not data:
            self._lose(client, f"the server ended the stream, after {client.rest[-200:]!r}")
            return
        if client.rest:
            data = client.rest + data
        if not client.live and not data.startswith(OK[: len(data)]):
            self._lose(client, f"the server refused: {data[:500]!r}")
            return
        # What follows the last whole frame waits for the rest of it.
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            client.rest = data
            return
        client.rest = data[end:]
        if not client.live:
            client.live = True
            self.live += 1
            self._opening -= 1
        for number in SEQUENCE.findall(data, 0, end):
            seq = int(number)
            if seq != client.seen + 1:
                self._fault(f"{client.path}: event {seq} came after {client.seen}")
            client.seen = seq
            client.arrivals.append(now)
            self.received += 1
        at = data.rfind(b"\nid: ", 0, end) + 5
        if at > 4:
            client.last_id = data[at : data.index(b"\n", at)].rstrip()

    def _lose(self, client: Client, reason: str) -> None:
        self._fault(f"{client.path}: {reason}")
        self._close(client)

    def _close(self, client: Client) -> None:
        assert client.socket is not None
        if client.live:
            self.live -= 1
        else:
            self._opening -= 1
        client.live = False
        del self._by_fd[client.socket.fileno()]
        client.socket.close()
        client.socket = None

    def _fault(self, words: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(words)


def main() -> None:
    control: Connection[Any, Any] = Connection(int(sys.argv[1]))
    Swarm(control).run()


if __name__ == "__main__":
    main()
