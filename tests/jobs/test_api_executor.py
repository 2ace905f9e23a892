"""The API executor over real HTTP on loopback. Nothing sleeps: waits are recorded instead."""

import asyncio
import gzip
import logging
import socket
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address, ip_network

import pytest
import pytest_asyncio

from howdah.jobs.api.errors import (
    ApiCallFailed,
    ApiError,
    DestinationRefused,
    RequestRefused,
    ResponseNotJson,
    ResponseTooLarge,
    RetryLater,
)
from howdah.jobs.api.executor import ApiExecutor
from howdah.jobs.api.wire import Wire
from tests.loopback_receiver import Receiver, Reply

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ONE_ADDRESS = (ip_network("127.0.0.1/32"),)


@dataclass
class Bench:
    """An executor whose waits are recorded, whose jitter is at its greatest, and whose clock stands at `NOW`."""

    executor: ApiExecutor
    waits: list[float]


def bench_allowing(*networks: str, jitter: float = 1.0, max_connections: int = 100) -> Bench:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    executor = ApiExecutor(
        allow_private=[ip_network(network) for network in networks],
        max_connections=max_connections,
        sleep=sleep,
        random=lambda: jitter,
        now=lambda: NOW,
    )
    return Bench(executor, waits)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = bench_allowing("127.0.0.1/32")
    async with bench.executor:
        yield bench


@pytest_asyncio.fixture
async def strict() -> AsyncIterator[ApiExecutor]:
    async with ApiExecutor() as executor:
        yield executor


# Attempts


async def test_a_call_survives_429_with_retry_after_and_then_500(bench: Bench) -> None:
    with Receiver(Reply(429, headers={"Retry-After": "1"}), Reply(500), Reply(200, b'{"done": true}')) as receiver:
        response = await bench.executor.request(
            "POST", f"{receiver.url}/report", json={"a": 1}, idempotency_key="run-7/post"
        )
    assert (response.status, response.attempts, response.json()) == (200, 3, {"done": True})
    assert bench.waits == [1.25, 0.5]
    assert [seen.headers["idempotency-key"] for seen in receiver.received] == ["run-7/post"] * 3
    assert [seen.body for seen in receiver.received] == [b'{"a":1}'] * 3


async def test_retry_after_is_a_floor_that_jitter_never_undercuts() -> None:
    bench = bench_allowing("127.0.0.1/32", jitter=0.0)
    with Receiver(Reply(503, headers={"Retry-After": "2"}), Reply(502), Reply()) as receiver:
        async with bench.executor as executor:
            await executor.request("GET", receiver.url)
    assert bench.waits == [2.0, 0.0]


async def test_a_long_retry_after_reschedules_the_run_and_holds_no_worker(bench: Bench) -> None:
    with (
        Receiver(Reply(500), Reply(429, headers={"Retry-After": "90"})) as receiver,
        pytest.raises(RetryLater) as later,
    ):
        await bench.executor.request("GET", f"{receiver.url}/x?token=s3cr3t")
    assert later.value.after == timedelta(seconds=90.5)
    assert (later.value.status, later.value.attempts, later.value.reason) == (429, 2, "status 429")
    assert bench.waits == [0.25]
    assert "s3cr3t" not in str(later.value)


async def test_retry_after_may_be_a_date(bench: Bench) -> None:
    date = format_datetime(NOW + timedelta(hours=1), usegmt=True)
    with Receiver(Reply(503, headers={"Retry-After": date})) as receiver, pytest.raises(RetryLater) as later:
        await bench.executor.request("GET", receiver.url)
    assert later.value.after == timedelta(hours=1, seconds=0.25)


@pytest.mark.parametrize("value", ["soon", "-5", "1e3", "Thu, 99 Foo 2030 99:99:99 GMT", "9" * 400, ""])
async def test_an_unreadable_retry_after_is_as_good_as_none(bench: Bench, value: str) -> None:
    with Receiver(Reply(503, headers={"Retry-After": value}), Reply()) as receiver:
        assert (await bench.executor.request("GET", receiver.url)).attempts == 2
    assert bench.waits == [0.25]


async def test_a_retry_after_of_more_than_a_day_is_a_failure(bench: Bench) -> None:
    with (
        Receiver(Reply(503, headers={"Retry-After": "86401"})) as receiver,
        pytest.raises(ApiCallFailed, match="86401"),
    ):
        await bench.executor.request("GET", receiver.url)


async def test_the_last_attempt_fails_even_when_the_server_names_a_time(bench: Bench) -> None:
    with Receiver(Reply(429, headers={"Retry-After": "90"})) as receiver, pytest.raises(ApiCallFailed) as failed:
        await bench.executor.request("GET", receiver.url, max_attempts=1)
    assert failed.value.status == 429


async def test_attempts_are_never_more_than_asked_for(bench: Bench) -> None:
    with Receiver(Reply(500, b"it broke")) as receiver, pytest.raises(ApiCallFailed) as failed:
        await bench.executor.request("PUT", f"{receiver.url}/x?q=1", max_attempts=3)
    assert len(receiver.received) == failed.value.attempts == 3
    assert (failed.value.status, failed.value.body_excerpt) == (500, "it broke")


async def test_no_attempt_starts_after_the_deadline(bench: Bench) -> None:
    with Receiver(Reply(500)) as receiver, pytest.raises(ApiCallFailed, match="the deadline"):
        await bench.executor.request("GET", receiver.url, deadline=0.2)
    assert (len(receiver.received), bench.waits) == (1, [])


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_is_not_idempotent_is_sent_once_without_a_key(bench: Bench, method: str) -> None:
    with Receiver(Reply(503), Reply()) as receiver, pytest.raises(ApiCallFailed, match="idempotency_key"):
        await bench.executor.request(method, receiver.url, json={})
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 501])
async def test_a_status_that_will_not_change_is_not_tried_again(bench: Bench, status: int) -> None:
    with Receiver(Reply(status), Reply()) as receiver, pytest.raises(ApiCallFailed) as failed:
        await bench.executor.request("GET", receiver.url)
    assert (failed.value.status, len(receiver.received)) == (status, 1)


async def test_a_server_that_never_finishes_its_answer_times_out(bench: Bench) -> None:
    with Receiver(Reply(200, hang=True), Reply(200, b"ok")) as receiver:
        response = await bench.executor.request("GET", receiver.url, timeout=timedelta(milliseconds=250))
    assert (response.body, response.attempts) == (b"ok", 2)


async def test_a_dropped_connection_and_a_closed_port_are_tried_again(bench: Bench) -> None:
    with Receiver(Reply(drop=True), Reply(200, b"ok")) as receiver:
        assert (await bench.executor.request("GET", receiver.url)).attempts == 2
    with pytest.raises(ApiCallFailed, match="ConnectError") as failed:
        await bench.executor.request("GET", receiver.url)
    assert (failed.value.status, failed.value.attempts) == (None, 4)


# Size


async def test_a_body_over_the_cap_is_refused_and_one_at_the_cap_is_not(bench: Bench) -> None:
    with Receiver(Reply(200, b"x" * 1000), Reply(200, b"x" * 1001)) as receiver:
        assert len((await bench.executor.request("GET", receiver.url, max_response_bytes=1000)).body) == 1000
        with pytest.raises(ResponseTooLarge, match="over 1000 bytes"):
            await bench.executor.request("GET", receiver.url, max_response_bytes=1000)


async def test_the_cap_counts_bytes_after_decompression(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    inflated: list[int] = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self.real = real(wbits=wbits)

        def decompress(self, data: bytes, max_length: int) -> bytes:
            piece = self.real.decompress(data, max_length)
            inflated.append(len(piece))
            return piece

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    bomb = gzip.compress(bytes(50 << 20))
    with (
        Receiver(Reply(200, bomb, {"Content-Encoding": "gzip"})) as receiver,
        pytest.raises(ResponseTooLarge),
    ):
        await bench.executor.request("GET", receiver.url, max_response_bytes=100_000)
    assert sum(inflated) == 100_001


async def test_gzip_is_read_also_in_several_members(bench: Bench) -> None:
    body = gzip.compress(b"first ") + gzip.compress(b"second")
    with Receiver(Reply(200, body, {"Content-Encoding": "gzip"})) as receiver:
        assert (await bench.executor.request("GET", receiver.url)).body == b"first second"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", gzip.compress(b"abc")[:-3]), ("gzip", b"plain"), ("gzip, gzip", gzip.compress(gzip.compress(b"abc")))],
    # Compressed bytes carry the time: as names they would be others in each test process.
    ids=["cut short", "not compressed", "compressed twice"],
)
async def test_a_body_that_cannot_be_decoded_is_a_failed_attempt(bench: Bench, encoding: str, body: bytes) -> None:
    with (
        Receiver(Reply(200, body, {"Content-Encoding": encoding})) as receiver,
        pytest.raises(ApiCallFailed, match="DecodingError"),
    ):
        await bench.executor.request("GET", receiver.url, max_attempts=2)


async def test_a_large_error_body_keeps_its_status_and_is_cut(bench: Bench) -> None:
    with Receiver(Reply(404, b"e" * 1_000_000)) as receiver, pytest.raises(ApiCallFailed) as failed:
        await bench.executor.request("GET", receiver.url, max_response_bytes=10)
    assert (failed.value.status, failed.value.body_excerpt) == (404, "e" * 500)


async def test_a_body_that_is_not_json_says_so(bench: Bench) -> None:
    with Receiver(Reply(200, b"<html>")) as receiver:
        response = await bench.executor.request("GET", receiver.url)
    with pytest.raises(ResponseNotJson, match="6 bytes"):
        response.json()


# Where a call may go


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "127.1",
        "0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "LOCALHOST",
    ],
)
async def test_loopback_is_refused_by_default_however_it_is_written(strict: ApiExecutor, host: str) -> None:
    with Receiver() as receiver, pytest.raises(DestinationRefused, match="HOWDAH_API_ALLOW_PRIVATE"):
        await strict.request("GET", f"http://{host}:{receiver.port}/")
    assert receiver.received == []


async def test_ipv6_loopback_is_refused_by_default(strict: ApiExecutor) -> None:
    with pytest.raises(DestinationRefused, match="add ::1/128") as refused:
        await strict.request("GET", "http://[::1]:9/")
    assert (refused.value.host, refused.value.address) == ("::1", "::1")


async def test_a_refused_name_gets_the_same_answer_when_nothing_listens(strict: ApiExecutor) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(DestinationRefused, match="localhost"):
            await strict.request("GET", f"http://localhost:{bound.getsockname()[1]}/")


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fd00:ec2::254", "fec0::1", "ff0e::1"),
        *("::ffff:10.0.0.1", "::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::", "2001:0:a00:1::"),
    ],
)
async def test_addresses_of_the_inside_are_refused(strict: ApiExecutor, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(DestinationRefused):
        await strict.request("GET", f"http://{host}/")


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "64:ff9b::101:101"])
async def test_public_addresses_are_permitted(address: str) -> None:
    wire = Wire(allow_private=(), max_connections=1)
    assert wire._permits(ip_address(address))
    await wire.aclose()


async def test_an_allowed_network_allows_its_own_addresses_only(bench: Bench) -> None:
    with Receiver() as one, Receiver(host="127.0.0.2") as two:
        assert (await bench.executor.request("GET", f"http://[::ffff:127.0.0.1]:{one.port}/")).status == 200
        with pytest.raises(DestinationRefused, match=r"127\.0\.0\.2/32"):
            await bench.executor.request("GET", two.url)
    assert two.received == []


async def test_a_redirect_from_an_allowed_host_does_not_open_another(bench: Bench) -> None:
    with Receiver(host="127.0.0.2") as inside, Receiver(Reply(302, headers={"Location": inside.url})) as outside:
        with pytest.raises(DestinationRefused) as refused:
            await bench.executor.request("GET", outside.url)
        assert refused.value.address == "127.0.0.2"
        assert (len(outside.received), inside.received) == (1, [])


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://u:hunter22@127.0.0.1/"])
async def test_a_redirect_is_held_to_the_rules_of_a_url(bench: Bench, location: str) -> None:
    with Receiver(Reply(302, headers={"Location": location})) as receiver, pytest.raises(DestinationRefused) as refused:
        await bench.executor.request("GET", receiver.url)
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://example.com/", "file:///etc/passwd", "//example.com/", "example.com", "", "http://", "http:///x"),
        *(
            "http://user:hunter22@example.com/",
            "http://hunter22@example.com/",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:0/",
        ),
        *("http://example.com/\r\nHost: evil", "http://exam\nple.com/", "http://0177.0.0.1/"),
    ],
)
async def test_a_url_that_may_not_be_called_is_refused_without_repeating_its_password(
    strict: ApiExecutor, url: str
) -> None:
    with pytest.raises(DestinationRefused) as refused:
        await strict.request("GET", url)
    assert "hunter22" not in str(refused.value)


# Redirects


async def test_another_origin_is_told_no_credentials_and_the_same_one_is() -> None:
    bench = bench_allowing("127.0.0.0/8")
    headers = {"Authorization": "Bearer s3cr3t", "Cookie": "a=b", "X-Api-Key": "k", "Accept": "text/plain"}
    with (
        Receiver(host="127.0.0.2") as other,
        Receiver(
            Reply(302, headers={"Location": "/next"}), Reply(307, headers={"Location": f"{other.url}/end"})
        ) as first,
    ):
        async with bench.executor as executor:
            await executor.request("GET", first.url, headers=headers, idempotency_key="k-1")
    same, across = first.received[1].headers, other.received[0].headers
    assert {"authorization", "cookie", "x-api-key", "idempotency-key"} <= set(same)
    assert not {"authorization", "cookie", "x-api-key", "idempotency-key"} & set(across)
    assert across["accept"] == "text/plain"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_body_is_never_sent_to_an_address_the_caller_did_not_name(bench: Bench, status: int) -> None:
    with (
        Receiver(Reply(status, headers={"Location": "/else"}), Reply()) as receiver,
        pytest.raises(ApiCallFailed, match="redirect"),
    ):
        await bench.executor.request("POST", receiver.url, json={}, idempotency_key="k")
    assert len(receiver.received) == 1


async def test_see_other_after_a_post_is_read_with_a_get(bench: Bench) -> None:
    with Receiver(Reply(303, headers={"Location": "/result"}), Reply(200, b"ok")) as receiver:
        response = await bench.executor.request("POST", receiver.url, json={"a": 1}, idempotency_key="k")
    second = receiver.received[1]
    assert (response.body, second.method, second.path, second.body) == (b"ok", "GET", "/result", b"")
    assert "idempotency-key" not in second.headers


async def test_three_redirects_are_followed_and_a_fourth_is_not(bench: Bench) -> None:
    again = Reply(302, headers={"Location": "/again"})
    with Receiver(again, again, again, Reply(200, b"ok")) as receiver:
        assert (await bench.executor.request("GET", receiver.url)).body == b"ok"
    with Receiver(again) as receiver, pytest.raises(ApiCallFailed, match="redirect"):
        await bench.executor.request("GET", receiver.url)
    assert len(receiver.received) == 4


# What is sent, and what is said about it


@pytest.mark.parametrize(
    "headers",
    [
        {"X-A": "s3cr3t\r\nHost: evil"},
        {"X-A": "s3cr3t\n"},
        {"X-A": "s3cr3t\0"},
        {"X-A": "s3cr3t é"},
        {"X-A\r\nX-B": "s3cr3t"},
        {"": "s3cr3t"},
        {"Host": "s3cr3t"},
        {"content-length": "3"},
        {"Transfer-Encoding": "chunked"},
        {"Idempotency-Key": "s3cr3t"},
    ],
)
async def test_headers_that_would_forge_a_request_are_refused(bench: Bench, headers: dict[str, str]) -> None:
    with Receiver() as receiver, pytest.raises(RequestRefused) as refused:
        await bench.executor.request("GET", receiver.url, headers=headers)
    assert receiver.received == []
    assert "s3cr3t" not in str(refused.value)


async def test_what_cannot_be_sent_is_refused_before_anything_is(bench: Bench) -> None:
    with Receiver() as receiver:
        for method, arguments in (
            ("CONNECT", {}),
            ("GET\r\n", {}),
            ("POST", {"json": float("nan")}),
            ("POST", {"json": "\ud800"}),
            ("POST", {"json": object()}),
            ("POST", {"json": {}, "content": b""}),
            ("POST", {"idempotency_key": "a\r\nb"}),
            ("POST", {"idempotency_key": ""}),
            ("POST", {"timeout": 0}),
            ("POST", {"deadline": float("nan")}),
            ("POST", {"max_attempts": 0}),
        ):
            with pytest.raises(RequestRefused):
                await bench.executor.request(method, receiver.url, **arguments)
    assert receiver.received == []


async def test_no_secret_is_in_an_error_or_a_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    headers = {"Authorization": "Bearer s3cr3t-token"}
    with (
        Receiver(Reply(400, b'{"you sent": "Bearer s3cr3t-token", "key": "s3cr3t-token"}')) as receiver,
        pytest.raises(ApiError) as failed,
    ):
        await bench.executor.request("GET", f"{receiver.url}/p?sig=s3cr3t-query", headers=headers)
    assert f"{receiver.url}/p: status 400" in str(failed.value)
    assert "s3cr3t" not in str(failed.value) + repr(failed.value.__dict__) + caplog.text


async def test_one_call_leaves_no_cookie_for_the_next(bench: Bench) -> None:
    with Receiver(Reply(200, headers={"Set-Cookie": "tenant=a; Path=/"})) as receiver:
        await bench.executor.request("GET", receiver.url)
        await bench.executor.request("GET", receiver.url)
    assert "cookie" not in receiver.received[1].headers


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(Reply(200, b"proxy")) as proxy, Receiver(Reply(200, b"direct")) as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        async with ApiExecutor(allow_private=ONE_ADDRESS) as executor:
            assert (await executor.request("GET", receiver.url)).body == b"direct"


# Connections


async def test_fifty_calls_at_once_leak_no_connection_however_they_end() -> None:
    bench = bench_allowing("127.0.0.1/32", max_connections=4)
    big, slow, fine = Reply(200, b"x" * 100_000), Reply(200, hang=True), Reply(200, b"ok")
    broken = Reply(302, headers={"Location": "http://127.0.0.9/"})
    unread = Reply(200, b"x" * 100_000, {"Content-Encoding": "br"})
    with Receiver(*[big, fine, broken, Reply(500, b"x" * 100_000), unread] * 10, slow, slow, fine) as receiver:
        async with bench.executor as executor:

            async def call(timeout: float = 20.0) -> None:
                await executor.request("GET", receiver.url, max_attempts=1, max_response_bytes=1000, timeout=timeout)

            ends = await asyncio.gather(*(call() for _ in range(50)), return_exceptions=True)
            assert {type(end).__name__ for end in ends} == {
                *("NoneType", "ResponseTooLarge", "DestinationRefused", "ApiCallFailed")
            }
            for _ in range(2):
                with pytest.raises(ApiCallFailed):
                    await call(0.2)
            # A leaked connection would now be missing from the four.
            await asyncio.gather(*(call() for _ in range(50)))
        assert await asyncio.to_thread(receiver.every_connection_is_closed)
