"""The connection to a server that speaks the OpenAI protocol, and what its failures mean to the router."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec
import openai

from howdah.router.errors import (
    MalformedReplyError,
    ModelError,
    ModelTimeoutError,
    ModelTooSmallError,
    RateLimitedError,
    RefusedError,
    UpstreamError,
)
from howdah.router.request import MAX_TIMEOUT_S

# What a server says about a failure goes into a table and a log line.
SHOWN_CHARACTERS = 300


def connect(api_key: str, base_url: str | None) -> openai.AsyncOpenAI:
    """A client that tries once; ``base_url`` None is OpenAI itself."""
    return openai.AsyncOpenAI(
        api_key=api_key,
        base_url=base_url or "https://api.openai.com/v1",
        max_retries=0,
        timeout=MAX_TIMEOUT_S,
    )


@contextmanager
def mapped(model: str, timeout_s: float) -> Iterator[None]:
    """Turn what the client raises into the error that it is for the router."""
    try:
        yield
    except (openai.APITimeoutError, TimeoutError) as error:
        raise ModelTimeoutError(model, f"no answer within {timeout_s:g} s") from error
    except openai.APIConnectionError as error:
        raise UpstreamError(model, f"cannot be reached: {error.__cause__ or error}"[:SHOWN_CHARACTERS]) from error
    except openai.APIStatusError as error:
        raise _of_status(model, error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, AttributeError, TypeError) as error:
        raise MalformedReplyError(model, f"unreadable reply: {error}"[:SHOWN_CHARACTERS]) from error
    except openai.OpenAIError as error:
        raise UpstreamError(model, f"failed: {error}"[:SHOWN_CHARACTERS]) from error


def _of_status(model: str, error: openai.APIStatusError) -> ModelError:
    status = error.status_code
    said = f"HTTP {status}: {error.message}"[:SHOWN_CHARACTERS]
    if status == 429:
        return RateLimitedError(model, said, _retry_after(error.response.headers))
    if status == 408:
        return ModelTimeoutError(model, said)
    if error.code == "context_length_exceeded":
        return ModelTooSmallError(model, said)
    if status == 404:
        # A compatible server that does not have this model may well have the next one.
        return UpstreamError(model, said)
    if 400 <= status < 500:
        return RefusedError(model, said, status)
    if status >= 500:
        return UpstreamError(model, said)
    return MalformedReplyError(model, said)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or an HTTP date; None where the server named none that can be read."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
