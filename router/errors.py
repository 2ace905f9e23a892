"""All that can go wrong in choosing and calling models.

::

    RouterError
    ├── InvalidRequestError       the request breaks a bound or lacks a part         422
    ├── NoModelError              no enabled model can serve the request             503
    ├── ContextTooLongError       no model's window holds it, and it has no pieces   422
    ├── AllModelsFailedError      the chosen model and every fallback failed         502 (429 if all were rate limited)
    └── ModelError                one attempt at one model failed
        ├── RateLimitedError      HTTP 429                                           next model
        ├── ModelTimeoutError     no answer within the request's seconds             next model
        ├── UpstreamError         5xx, no such model (404), or out of reach          next model
        ├── ModelTooSmallError    the text fits neither its window nor its pieces    next model
        ├── MalformedReplyError   an answer that cannot be read or trusted           next model
        └── RefusedError          any other 4xx: our own request or key is wrong     raised at once
"""

from collections.abc import Sequence


class RouterError(Exception):
    """Base of all errors of this package."""


class InvalidRequestError(RouterError):
    """A request breaks a bound or lacks a part that its purpose needs."""


class NoModelError(RouterError):
    """No enabled model of the kind asked for exists."""


class ContextTooLongError(RouterError):
    """The text fits no model's context window and its purpose cannot be served in pieces."""


class ModelError(RouterError):
    """One attempt at one model failed; ``status`` is what the attempt is recorded as."""

    status = "error"

    def __init__(self, model: str, message: str) -> None:
        super().__init__(f"{model}: {message}")
        self.model = model
        self.message = message


class RateLimitedError(ModelError):
    """The model's server asks for fewer calls; ``retry_after`` is the floor in seconds it named, if it did."""

    status = "rate_limited"

    def __init__(self, model: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(model, message)
        self.retry_after = retry_after


class ModelTimeoutError(ModelError):
    """The model did not answer in time."""

    status = "timeout"


class UpstreamError(ModelError):
    """The model's server failed (5xx) or could not be reached."""


class MalformedReplyError(ModelError):
    """The reply is not what the protocol or the question asked for."""

    status = "malformed"


class ModelTooSmallError(ModelError):
    """The text fits neither this model's context window nor the pieces it may be read in."""


class RefusedError(ModelError):
    """The server refused our request (4xx): another model would not cure it. ``http_status`` is its code."""

    status = "refused"

    def __init__(self, model: str, message: str, http_status: int) -> None:
        super().__init__(model, message)
        self.http_status = http_status


class AllModelsFailedError(RouterError):
    """Every model tried has failed; ``errors`` in the order tried, ``retry_after`` the greatest floor in seconds."""

    def __init__(self, errors: Sequence[ModelError]) -> None:
        self.errors = tuple(errors)
        floors = [e.retry_after for e in errors if isinstance(e, RateLimitedError) and e.retry_after is not None]
        self.retry_after: float | None = max(floors, default=None)
        wait = "" if self.retry_after is None else f"; retry after {self.retry_after:g} s"
        super().__init__(f"all {len(self.errors)} models failed: " + "; ".join(map(str, self.errors)) + wait)
