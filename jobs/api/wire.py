"""One attempt of an outside call on the wire: where it may go, which redirects it follows, how much it reads."""

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import count
from socket import SOCK_STREAM

import httpx
from httpx_secure import SSRFProtectionError, httpx_ssrf_protection

from howdah.jobs.api.errors import DestinationRefused, ResponseTooLarge

ALLOW_PRIVATE_SETTING = "HOWDAH_API_ALLOW_PRIVATE"
MAX_REDIRECTS = 3  # http → https → www → the page; a longer chain is a loop
DNS_TTL_S = 30.0  # the guard pins a name to one address; short enough for a fail-over between two attempts
EXCERPT_READ_BYTES = 4096  # of an error's body: enough for a problem document

# A redirect to another origin takes these along and nothing else: an API key travels under any name.
KEPT_ACROSS_ORIGINS = frozenset({"accept", "accept-encoding", "accept-language", "user-agent"})

GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
AZURE_METADATA = IPv4Address("168.63.129.16")  # inside a public range, yet answers only a machine about itself


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, its headers, and the decoded body: all of it below status 300, its beginning from there on."""

    status: int
    headers: httpx.Headers
    body: bytes


class Wire:
    """A guarded connection pool. Keeps no cookies and logs no URLs.

    Redirects: at most 3. GET and HEAD follow 301, 302, 307 and 308; any method follows 303, as a GET without its body.
    Any other is returned as it is: no body is sent to an address that the caller did not name. Another origin is told
    none of the request's own headers.
    """

    def __init__(self, *, allow_private: Sequence[IPv4Network | IPv6Network], max_connections: int) -> None:
        self._allow = tuple(allow_private)
        limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=20, keepalive_expiry=5.0)
        self._transport = httpx.AsyncHTTPTransport(trust_env=False, limits=limits)
        # The client is how the guard is installed. Calls go straight to its transport, because a client keeps one
        # tenant's cookies for the next and logs URLs with their query.
        self._client = httpx.AsyncClient(transport=self._transport, trust_env=False)
        httpx_ssrf_protection(
            self._client,
            check_globally_reachable=False,
            custom_validator=lambda _host, address, _port: self._permits(address),
            dns_cache_ttl=DNS_TTL_S,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def send(
        self, method: str, url: httpx.URL, headers: dict[str, str], body: bytes | None, limit: int
    ) -> Answer:
        """The answer at the end of the redirects; raises `DestinationRefused`, `ResponseTooLarge`, httpx's errors."""
        for hop in count():
            answer = await self._exchange(method, url, headers, body, limit)
            location = answer.headers.get("location")
            followed = answer.status == 303 or (answer.status in {301, 302, 307, 308} and method in {"GET", "HEAD"})
            if location is None or not followed or hop == MAX_REDIRECTS:
                return answer
            target = checked_url(location, base=url)
            if _origin(target) != _origin(url):
                headers = {name: value for name, value in headers.items() if name in KEPT_ACROSS_ORIGINS}
            if method not in {"GET", "HEAD"}:
                of_the_body = {"content-type", "idempotency-key"}
                headers = {name: value for name, value in headers.items() if name not in of_the_body}
                method, body = "GET", None
            url = target
        raise AssertionError("unreachable: the hops are counted without end")

    async def _exchange(
        self, method: str, url: httpx.URL, headers: dict[str, str], body: bytes | None, limit: int
    ) -> Answer:
        try:
            response = await self._transport.handle_async_request(
                httpx.Request(method, url, headers=headers, content=body)
            )
        except SSRFProtectionError as error:
            raise _refusal(url.host, error.ip_addr) from None
        except httpx.ConnectError:
            # The guard dials a name before it judges it. A refused name gets one answer, whether or not anything
            # listens there: no retries, and no way to feel out which private ports are open.
            addresses = await _addresses(url)
            if addresses and not any(map(self._permits, addresses)):
                raise _refusal(url.host, addresses[0]) from None
            raise
        try:
            if response.status_code < 300:
                return Answer(response.status_code, response.headers, await _read(response, limit, url))
            try:
                excerpt = await _read(response, EXCERPT_READ_BYTES, None)
            except httpx.DecodingError:
                excerpt = b""
            return Answer(response.status_code, response.headers, excerpt)
        finally:
            await response.aclose()

    def _permits(self, address: IPv4Address | IPv6Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if any(address in network for network in self._allow):
            return True
        # `is_global` of older Pythons lets these through: 6to4, NAT64, multicast, site-local.
        if isinstance(address, IPv6Address):
            if address in NAT64:
                address = IPv4Address(address.packed[-4:])
            elif address not in GLOBAL_UNICAST_V6:
                return False
            elif address.sixtofour:
                address = address.sixtofour
        return address.is_global and not address.is_multicast and address != AZURE_METADATA


def checked_url(url: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """An http or https URL with a host and without a password; anything else is a `DestinationRefused`."""
    try:
        target = base.join(url) if base else httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise DestinationRefused(
            "the URL cannot be read: give http://host/path or https://host/path", host=""
        ) from None
    host = target.host
    if target.scheme not in {"http", "https"} or not host:
        message = f"only http and https URLs with a host are called, not {target.scheme!r} with host {host!r}"
        raise DestinationRefused(message, host=host)
    if target.port is not None and not 1 <= target.port <= 65_535:
        raise DestinationRefused(f"port {target.port} of {host} is not one of 1 to 65535", host=host)
    if target.userinfo:
        message = f"the URL for {host} holds a user name or password; send an Authorization header instead"
        raise DestinationRefused(message, host=host)
    return target.copy_with(fragment=None)


def shown(url: httpx.URL) -> str:
    """The URL as a message may quote it: without its query."""
    return str(url.copy_with(query=None))


async def _read(response: httpx.Response, limit: int, url: httpx.URL | None) -> bytes:
    """The decoded body; over `limit` bytes raises `ResponseTooLarge`, or is cut there when there is no `url` to blame.

    Inflates by itself, because httpx inflates a whole network chunk, however large that becomes, and as many layers of
    compression as the server names.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise httpx.DecodingError(f"the body is in {encoding!r}, which was not asked for")
    inflate = None if encoding == "identity" else zlib.decompressobj(wbits=31)
    body = bytearray()
    received = 0
    async for chunk in response.aiter_raw():
        received += len(chunk)
        rest = chunk
        while rest:
            if inflate is None:
                body += rest
                rest = b""
            else:
                if inflate.eof:
                    inflate = zlib.decompressobj(wbits=31)
                try:
                    body += inflate.decompress(rest, limit + 1 - len(body))
                except zlib.error:
                    raise httpx.DecodingError("the body is not the gzip it claims to be") from None
                rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            # Compressed bytes that inflate to nothing count too.
            if len(body) > limit or received > 2 * limit + 1024:
                if url is None:
                    return bytes(body[:limit])
                message = (
                    f"the response of {shown(url)} is over {limit} bytes; ask for less or raise max_response_bytes"
                )
                raise ResponseTooLarge(message, limit=limit)
    if inflate is not None and received and not inflate.eof:
        raise httpx.DecodingError("the gzip body ends early")
    return bytes(body)


async def _addresses(url: httpx.URL) -> list[IPv4Address | IPv6Address]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=SOCK_STREAM)
        return [ip_address(address[0]) for *_, address in found]
    except (OSError, ValueError):
        return []


def _refusal(host: str, address: IPv4Address | IPv6Address | None) -> DestinationRefused:
    plain = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    named = host if str(address) == host else f"{host} ({address})"
    network = f"{plain}/{plain.max_prefixlen}" if plain else "its network"
    message = (
        f"{named} is not a public address, and outside calls go to public ones only; "
        f"if it is meant, add {network} to {ALLOW_PRIVATE_SETTING}"
    )
    return DestinationRefused(message, host=host, address=str(address) if address else None)


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}[url.scheme]
