"""Calls to outside HTTP APIs: bounded in time and size, retried, and never to a private address by accident.

What can go wrong is in `api_errors`; one attempt on the wire is in `api_wire`; here is when to try again.
"""

import asyncio
import random as randomness
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Network, IPv6Network
from itertools import count
from json import dumps
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from howdah.jobs.api.errors import ApiCallFailed, RequestRefused, ResponseNotJson, RetryLater
from howdah.jobs.api.wire import KEPT_ACROSS_ORIGINS, Answer, Wire, checked_url, shown

MAX_CONNECTIONS = 100  # of one process; more callers wait for a free one, inside their own time-out
MAX_RETRY_AFTER_S = 86_400.0  # a server that wants more than a day is down, not busy
BACKOFF_BASE_S, BACKOFF_CAP_S = 0.25, 30.0
EXCERPT_CHARS = 500

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
METHODS = IDEMPOTENT | {"POST", "PATCH"}
RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
# Framing and routing are the executor's to write; a caller's copy could smuggle a second request.
FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te"})
RESERVED = FRAMING | {"trailer", "expect", "proxy-authorization", "proxy-connection", "accept-encoding"}
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]{0,8190}[\x21-\x7e])?|")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A final answer: status 2xx or 304, headers under lower-case names, the decoded body."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    attempts: int
    elapsed_ms: int

    def json(self) -> Any:
        """The body as JSON; raises `ResponseNotJson`."""
        try:
            return msgspec.json.decode(self.body)
        except (ValueError, RecursionError) as error:
            message = f"status {self.status} came with {len(self.body)} bytes that are not JSON: {error}"
            raise ResponseNotJson(message) from None


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    status: int | None = None
    excerpt: str = ""
    floor_s: float = 0.0


class ApiExecutor:
    """Performs outside HTTP calls for every run of a process; open it once, close it with `aclose()`.

    `allow_private` names the networks that may be called although they are not public. A wait between attempts longer
    than `max_inline_wait` seconds is not slept but raised as `RetryLater`, so that it holds no worker. `sleep`,
    `random` (0 ≤ x < 1) and `now` are there for tests.
    """

    def __init__(
        self,
        *,
        allow_private: Sequence[IPv4Network | IPv6Network] = (),
        max_inline_wait: float = 2.0,
        max_connections: int = MAX_CONNECTIONS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = randomness.random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._wire = Wire(allow_private=allow_private, max_connections=max_connections)
        self._max_inline_wait = max_inline_wait
        self._sleep, self._random, self._now = sleep, random, now

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._wire.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta | float = 30.0,
        deadline: timedelta | float = 120.0,
        max_attempts: int = 4,
        idempotency_key: str | None = None,
        max_response_bytes: int = 1 << 20,
    ) -> ApiResponse:
        """Call `url` and return its 2xx or 304 response; raise an `ApiError` otherwise.

        `timeout` bounds one attempt from the wait for a connection to the last byte of the body, `deadline` all
        attempts with the waits between them; both in seconds or as a timedelta, up to an hour. `json=None` sends no
        body. Connection errors, time-outs and 408, 425, 429, 500, 502, 503 and 504 are retried, POST and PATCH only
        under an `idempotency_key`, which every attempt sends unchanged. Retry-After is a floor under the wait.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        timeout_s, deadline_s = _seconds("timeout", timeout), _seconds("deadline", deadline)
        if max_attempts < 1 or max_response_bytes < 1:
            message = f"max_attempts ({max_attempts}) and max_response_bytes ({max_response_bytes}) are at least 1"
            raise RequestRefused(message)
        method = method.upper()
        sent, body = _checked_request(method, headers or {}, json, content, idempotency_key)
        target = checked_url(url)
        what = f"{method} {shown(target)}"

        for attempt in count(1):
            patience = min(timeout_s, started + deadline_s - loop.time())
            try:
                async with asyncio.timeout(patience):
                    answer = await self._wire.send(method, target, sent, body, max_response_bytes)
            except TimeoutError:
                failure = _Failure(f"no complete answer within {patience:.3g} s")
            except httpx.ConnectError as error:
                failure = _Failure(f"ConnectError: {error}")
            except (httpx.TransportError, httpx.DecodingError) as error:
                # By its kind only: the text of some of these quotes what was sent.
                failure = _Failure(type(error).__name__)
            else:
                if 200 <= answer.status < 300 or answer.status == 304:
                    elapsed_ms = round((loop.time() - started) * 1000)
                    return ApiResponse(answer.status, dict(answer.headers), answer.body, attempt, elapsed_ms)
                failure = self._refused_by(answer, sent)

            # Jitter on top of the floor too: a server that told a thousand callers "1" would meet them all at once.
            # The exponent stops where the cap has long been reached, so that it cannot overflow.
            backoff = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(attempt - 1, 10))
            wait = failure.floor_s + self._random() * backoff
            status = failure.status
            if status is not None and 300 <= status < 400:
                end = ", a redirect that is not followed; call the address that it names"
            elif status is not None and status not in RETRYABLE:
                end = ""
            elif method not in IDEMPOTENT and idempotency_key is None:
                end = f"; a {method} is tried again only under an idempotency_key"
            elif attempt >= max_attempts:
                end = f", at attempt {attempt} of {max_attempts}"
            elif failure.floor_s > MAX_RETRY_AFTER_S:
                end = f", with a Retry-After of {failure.floor_s:.0f} s; the longest kept is {MAX_RETRY_AFTER_S:.0f} s"
            elif wait > self._max_inline_wait:
                message = f"{what}: {failure.reason}, at attempt {attempt} of {max_attempts}; next in {wait:.1f} s"
                after = timedelta(seconds=wait)
                raise RetryLater(message, after=after, reason=failure.reason, attempts=attempt, status=status)
            elif loop.time() - started + wait >= deadline_s:
                end = f", and the deadline of {deadline_s:g} s leaves no time for another attempt"
            else:
                await self._sleep(wait)
                continue
            said = f"; the body begins {failure.excerpt!r}" if failure.excerpt else ""
            message = f"{what}: {failure.reason}{end}{said}"
            raise ApiCallFailed(message, status=status, body_excerpt=failure.excerpt, attempts=attempt)
        raise AssertionError("unreachable: the attempts are counted without end")

    def _refused_by(self, answer: Answer, sent: Mapping[str, str]) -> _Failure:
        floor_s = _retry_after(answer.headers.get("retry-after"), self._now())
        return _Failure(f"status {answer.status}", answer.status, _excerpt(answer.body, sent), floor_s)


def _checked_request(
    method: str, headers: Mapping[str, str], json: object, content: bytes | None, key: str | None
) -> tuple[dict[str, str], bytes | None]:
    if method not in METHODS:
        raise RequestRefused(f"method {method!r} is not one of {', '.join(sorted(METHODS))}")
    if json is not None and content is not None:
        raise RequestRefused("json and content are both given; a request has one body")
    sent = {"accept": "*/*", "user-agent": "howdah", "accept-encoding": "gzip"}
    body = content
    if json is not None:
        try:
            body = dumps(json, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            message = f"json holds what JSON cannot (NaN, a lone surrogate, another type): {type(error).__name__}"
            raise RequestRefused(message) from None
        sent["content-type"] = "application/json"
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            message = f"header {name[:100]!r}: a name is a token, a value one line of printable ASCII under 8 KiB"
            raise RequestRefused(message)
        if name.lower() == "idempotency-key":
            raise RequestRefused("header 'Idempotency-Key' is given as idempotency_key, which allows retries")
        if name.lower() in RESERVED:
            raise RequestRefused(f"header {name!r} is written by the executor; leave it out")
        sent[name.lower()] = value
    if key is not None:
        if not IDEMPOTENCY_KEY.fullmatch(key):
            raise RequestRefused(f"idempotency_key is 1 to 255 printable ASCII characters, not {key[:300]!r}")
        sent["idempotency-key"] = key
    return sent, body


def _retry_after(value: str | None, now: datetime) -> float:
    """Seconds to wait by a Retry-After header, as a number or an HTTP date; 0 without a usable one."""
    if value is None:
        return 0.0
    if re.fullmatch(r"[0-9]{1,10}", value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def _excerpt(body: bytes, sent: Mapping[str, str]) -> str:
    """The beginning of an error's body, without the request headers that some servers echo."""
    text = body.decode(errors="replace")
    for name, value in sent.items():
        if name in KEPT_ACROSS_ORIGINS or name == "content-type":
            continue
        for secret in (value, value.split(" ")[-1]):
            text = text.replace(secret, "[removed]") if len(secret) >= 6 else text
    return text[:EXCERPT_CHARS]


def _seconds(name: str, value: timedelta | float) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0 < seconds <= 3600:
        raise RequestRefused(f"{name} is more than 0 and at most 3600 seconds, not {seconds:g}")
    return seconds
