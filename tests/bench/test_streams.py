"""The clients that measure event streams: what they would take for delivered, and what they would not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from threading import Thread

import psycopg
import pytest

from tests.app.api_servers import api_process
from tests.app.conftest import issue
from tests.bench.event_producer import event_producer
from tests.bench.stream_clients import StreamClients, stream_clients

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def event(seq: int) -> bytes:
    return b'id: i%d\ndata: {"sequence":"%020d","data":{}}\n\n' % (seq, seq)


@contextmanager
def speaker(*pieces: bytes) -> Iterator[str]:
    """URL of a server that says these pieces to its only client, each in a packet of its own, and stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = socket.socketpair()

        def speak() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(4096)
                for piece in pieces:
                    connection.sendall(piece)
                    done[0].settimeout(0.02)
                    try:
                        done[0].recv(1)
                    except TimeoutError:
                        continue
                    return
                done[0].settimeout(30)
                done[0].recv(1)

        thread = Thread(target=speak)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done[1].send(b"x")
            thread.join(30)


@contextmanager
def one_client(*pieces: bytes) -> Iterator[StreamClients]:
    with speaker(*pieces) as url, stream_clients(url, "key") as clients:
        yield clients


async def test_events_are_counted_wherever_packets_and_chunks_are_cut() -> None:
    whole = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event(seq)), event(seq)) for seq in range(1, 6))
    for cut in (20, len(HEAD) + 30, len(whole) - 60, len(whole) - 1):
        with one_client(whole[:cut], whole[cut:]) as clients:
            await clients.connect(["/"])
            await clients.wait(5, 10)
            ((first, arrivals),) = await clients.take()
            assert (first, len(arrivals)) == (1, 5)
            assert sorted(arrivals) == list(arrivals)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [([1, 2, 4], "event 4 came after 2"), ([1, 2, 2], "event 2 came after 2"), ([1, 2], "3 events were to be read")],
)
async def test_a_gap_a_repeat_and_a_loss_are_no_figure(numbers: list[int], told: str) -> None:
    with one_client(HEAD + b": hello\n\n", *map(event, numbers)) as clients:
        await clients.connect(["/"])
        with pytest.raises(RuntimeError, match=told):
            await clients.wait(3, 1)


async def test_a_refusal_is_told() -> None:
    with (
        one_client(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") as clients,
        pytest.raises(RuntimeError, match="503 Service Unavailable"),
    ):
        await clients.connect(["/"])


@pytest.fixture
async def clients(database_url: str, db: psycopg.Connection) -> AsyncIterator[StreamClients]:
    db.execute("select create_session('default', s) from unnest('{a,b}'::text[]) as s")
    with api_process(database_url) as api, stream_clients(api.url, issue(db, "default")) as clients:
        await clients.connect(["/v1/sessions/a/events", "/v1/sessions/b/events", "/v1/sessions/b/events"])
        yield clients


async def test_clients_that_leave_go_on_after_what_they_have_seen(clients: StreamClients, database_url: str) -> None:
    async with event_producer(database_url, ["a", "b"]) as producer:
        await producer.keep_pace(500, 100)
        of_a, of_b = map(len, producer.committed_at)
        assert of_a + of_b == 100
        await clients.wait(of_a + 2 * of_b, 10)
        taken = await clients.take()
        assert [(first, len(arrivals)) for first, arrivals in taken] == [(1, of_a), (1, of_b), (1, of_b)]
        assert all(sent <= read for sent, read in zip(producer.appended_at[0], taken[0][1], strict=True))
        await clients.leave()
        await producer.append_to_all()
        await clients.reconnect(of_a + 2 * of_b + 3)
        assert [(first, len(arrivals)) for first, arrivals in await clients.take()] == [
            (of_a + 1, 1),
            (of_b + 1, 1),
            (of_b + 1, 1),
        ]
