"""An HTTP server on loopback, in a thread, that answers by a script and keeps what it was sent."""

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """One answer. `hang` sends the headers and then nothing until either side closes; `drop` closes without a word."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Receiver:
    """Answers each request with the next of `replies`, then with the last one for ever."""

    def __init__(self, *replies: Reply, host: str = "127.0.0.1") -> None:
        self.replies = list(replies) or [Reply()]
        self.received: list[Received] = []
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        receiver = self

        class Exchange(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                receiver._opened(self.connection)

            def finish(self) -> None:
                try:
                    super().finish()
                finally:
                    receiver._closed(self.connection)

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                reply = receiver._take(Received(self.command, self.path, dict(self.headers.items()), body))
                if reply.drop:
                    self.close_connection = True
                    return
                self.send_response_only(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body) + reply.hang))
                self.end_headers()
                self.wfile.flush()
                if reply.hang:
                    self.connection.recv(1)
                    self.close_connection = True
                elif self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True
            request_queue_size = 128

        self._server = Server((host, 0), Exchange)
        self.port = int(self._server.server_address[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def every_connection_is_closed(self, within: float = 5.0) -> bool:
        """Wait until no client is connected; False when that takes longer than `within` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, within)

    def _opened(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.add(connection)

    def _closed(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def _take(self, received: Received) -> Reply:
        with self._changed:
            self.received.append(received)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
