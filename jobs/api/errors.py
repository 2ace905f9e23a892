"""What can go wrong in a call to an outside API, all of it an `ApiError`.

    ApiError
    ├── RequestRefused      nothing was sent: method, headers, key or body are not ones we send
    ├── DestinationRefused  the URL, or the address that its name stands for, may not be called
    ├── ApiCallFailed       a final status other than 2xx or 304, or the attempts or the deadline ran out
    ├── ResponseTooLarge    the body, decoded, is over the cap
    ├── ResponseNotJson     `ApiResponse.json()` on a body that is not JSON
    └── RetryLater          the next attempt is too far off to wait for; reschedule the run

No message holds a query string, a password or the value of a request header.
"""

from datetime import timedelta


class ApiError(Exception):
    """Anything that keeps an outside call from returning a response."""


class RequestRefused(ApiError):
    """The request itself is wrong; nothing was sent."""


class DestinationRefused(ApiError):
    """`host` (with `address`, once known) may not be called; the message says how to allow it."""

    def __init__(self, message: str, *, host: str, address: str | None = None) -> None:
        super().__init__(message)
        self.host, self.address = host, address


class ApiCallFailed(ApiError):
    """No attempt brought a usable answer. `status` and `body_excerpt` are the last one's; None and "" without one."""

    def __init__(self, message: str, *, status: int | None, body_excerpt: str, attempts: int) -> None:
        super().__init__(message)
        self.status, self.body_excerpt, self.attempts = status, body_excerpt, attempts


class ResponseTooLarge(ApiError):
    """The decoded body is over `limit` bytes; the rest was not read."""

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class ResponseNotJson(ApiError):
    """The body is not JSON."""


class RetryLater(ApiError):
    """Try again `after` this time. `attempts` are used up: the next call gets `max_attempts` less these."""

    def __init__(self, message: str, *, after: timedelta, reason: str, attempts: int, status: int | None) -> None:
        super().__init__(message)
        self.after, self.reason, self.attempts, self.status = after, reason, attempts, status
