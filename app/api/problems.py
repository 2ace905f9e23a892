"""Every error as an RFC 9457 problem document: what was wrong, with which value, and what to do; no internals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.params import ParameterKwarg
from litestar.types import ExceptionHandlersMap
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from howdah.sql.errors import BadValue, HowdahError, QueueFull, SessionFull, from_psycopg

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
# Postgres restarts, and a full pool drains, within seconds; what waits in a capped queue is counted each second.
RETRY_AFTER = {"Retry-After": "1"}
TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    413: "Too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    500: "Internal error",
    503: "Not available now",
}


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with the request: `pointer` into its body (RFC 6901), or the name of a `parameter`."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document; `code` is the engine's, see `howdah.sql.errors`."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    code: str | None = None
    errors: list[FieldError] = []


class Refused(Exception):
    """What the API itself refuses; `slug` names the kind of problem."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        title: str | None = None,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.title = title or TITLES[status]
        self.errors = errors or []
        self.headers = dict(headers or {})


def problem_of(error: Exception, instance: str | None = None) -> tuple[Problem, dict[str, str]]:
    """The problem document of any error, and the headers that go with it."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, psycopg.Error):
        error = error.orig
    if isinstance(error, psycopg.Error):
        error = _of_database(error)
    if isinstance(error, NoConnection):
        error = _unavailable()
    if isinstance(error, HowdahError):
        slug = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
        headers = RETRY_AFTER if isinstance(error, QueueFull | SessionFull) else {}
        return Problem(_type(slug), error.title, error.status, str(error), instance, error.sqlstate), headers
    if isinstance(error, HTTPException):
        error = _of_framework(error)
    if isinstance(error, Refused):
        problem = Problem(_type(error.slug), error.title, error.status, error.detail, instance, errors=error.errors)
        return problem, error.headers
    log.error("request_failed", instance=instance, exc_info=error)
    detail = "something went wrong that is not the request's fault; the server's log tells what"
    return Problem(_type("internal-error"), TITLES[500], 500, detail, instance), {}


def render(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Litestar's exception handler for everything."""
    if isinstance(error, ValidationException):
        error = _of_parameters(error, request)
    if isinstance(error, RequestEntityTooLarge):
        limit = request.app.state.resources.settings.max_body_bytes
        error = Refused(
            413, "too-large", f"the body is over {limit:,} bytes, the most that is taken: send a smaller one"
        )
    problem, headers = problem_of(error, request.url.path)
    return Response(problem, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)


EXCEPTION_HANDLERS: ExceptionHandlersMap = {Exception: render, HTTPException: render}


def _type(slug: str) -> str:
    return f"urn:howdah:problem:{slug}"


def _of_database(error: psycopg.Error) -> Exception:
    known = from_psycopg(error)
    if known is not None:
        return known
    if isinstance(error, pg.QueryCanceled):
        return Refused(503, "too-slow", "the database needed too long; ask for less, such as a narrower filter")
    if isinstance(error, psycopg.DataError | pg.CheckViolation):
        return BadValue(f"the database refuses a value: {error.diag.message_primary or error}")
    if isinstance(error, psycopg.OperationalError):
        log.warning("database_unavailable", error=str(error))
        return _unavailable()
    return error


def _unavailable() -> Refused:
    return Refused(503, "database-unavailable", "the database cannot be reached now; try again", headers=RETRY_AFTER)


def _of_framework(error: HTTPException) -> Exception:
    """Litestar's own errors, such as a path that is not there or a parameter that is no number."""
    headers = error.headers or {}
    status = error.status_code
    if status >= 500:
        return error.__cause__ if isinstance(error.__cause__, Exception) else RuntimeError(error.detail)
    known = status if status in TITLES else 400
    slug = TITLES[known].lower().replace(" ", "-")
    return Refused(known, slug, error.detail, headers=headers)


def _of_parameters(error: ValidationException, request: Request[Any, Any, Any]) -> Refused:
    """What Litestar found wrong with the parameters of a handler, or with a body that it read by itself."""
    # It names the handler's own parameters; a client knows them as they stand in the request.
    declared = request.route_handler.parsed_fn_signature.parameters
    kwargs = {name: field.kwarg_definition for name, field in declared.items()}
    names = {name: kwarg.name or name for name, kwarg in kwargs.items() if isinstance(kwarg, ParameterKwarg)}
    errors = [_field_error(item, names) for item in error.extra or [] if isinstance(item, dict)]
    detail = "; ".join(item.detail for item in errors[:3]) or error.detail
    in_body = any(item.pointer is not None for item in errors)
    return Refused(422 if in_body else 400, "invalid-request", detail, errors=errors)


def _field_error(item: dict[str, Any], names: Mapping[str, str]) -> FieldError:
    message, key = str(item.get("message", "is invalid")), str(item.get("key", ""))
    if item.get("source") in ("query", "path", "header", "cookie") or key in names:
        name = names.get(key, key)
        return FieldError(f"{name}: {message}", parameter=name)
    if key in ("", "data"):
        return FieldError("the request has no body, or not the one expected: send a JSON document", pointer="")
    return FieldError(message, pointer=pointer_of(key))


def pointer_of(path: str) -> str:
    """A path such as ``runs[0].task`` as a JSON pointer, ``/runs/0/task``."""
    parts = re.findall(r"[^.\[\]]+", path.removeprefix("$"))
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)
