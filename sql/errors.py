"""All that the engine can refuse, on one page: its SQLSTATE, its HTTP status, and its exception.

HowdahError
├── StaleAttempt             HW001  409  another attempt has the run, or it has ended
├── UnknownRun               HW002  404
├── IdempotencyConflict      HW003  422  the key was used for another request
├── WrongState               HW004  409  the run's state does not allow it
├── NotUnique                HW005  409  a run with this uniqueness key is queued
├── UnknownSession           HW006  404
├── SessionClosed            HW007  409
├── WrongIsolation           HW008  500  the engine needs read committed
├── UnknownTenant            HW009  404
├── UnknownCollection        HW011  404
├── EmbeddingMismatch        HW012  422  other model or other dimensions than the collection's
├── StepRepeated             HW013  409  a step ran again although its output was on disk
├── UnknownTask              HW014  404
├── TooLarge                 HW015  413
├── BadValue                 HW016  422  a value Postgres or JSON cannot hold: NUL, lone surrogate, NaN
├── DatabaseUnfit            HW017  503  version or extension missing
├── QueueFull                HW018  429  as many runs are queued as the queue allows
├── UnknownSchedule          HW019  404
├── BadSchedule              HW020  422  a cron expression, a time zone or a name that cannot be used
├── UnknownQueue             HW021  404
├── NotAChoice               HW022  422  a signal whose payload is none of those that the run waits for
├── UnknownConsumer          HW023  404
├── NoSuchEvent              HW024  422  a number above the session's last event
└── SessionFull              HW025  429  a required consumer is as far behind as the session's window allows
"""

from __future__ import annotations

import psycopg


class HowdahError(Exception):
    """Root of all errors. `sqlstate` is what SQL raises, `status` what REST answers, `title` what both mean."""

    sqlstate = "HW000"
    status = 500
    title = "Internal error"


class StaleAttempt(HowdahError):
    sqlstate, status, title = "HW001", 409, "The attempt is over"


class UnknownRun(HowdahError):
    sqlstate, status, title = "HW002", 404, "Unknown run"


class IdempotencyConflict(HowdahError):
    sqlstate, status, title = "HW003", 422, "Idempotency key used for another request"


class WrongState(HowdahError):
    sqlstate, status, title = "HW004", 409, "The run's state does not allow this"


class NotUnique(HowdahError):
    sqlstate, status, title = "HW005", 409, "A run with this uniqueness key is queued"


class UnknownSession(HowdahError):
    sqlstate, status, title = "HW006", 404, "Unknown session"


class SessionClosed(HowdahError):
    sqlstate, status, title = "HW007", 409, "The session is closed"


class WrongIsolation(HowdahError):
    sqlstate, status, title = "HW008", 500, "Wrong isolation level"


class UnknownTenant(HowdahError):
    sqlstate, status, title = "HW009", 404, "Unknown tenant"


class UnknownCollection(HowdahError):
    sqlstate, status, title = "HW011", 404, "Unknown collection"


class EmbeddingMismatch(HowdahError):
    sqlstate, status, title = "HW012", 422, "The collection has other embeddings"


class StepRepeated(HowdahError):
    sqlstate, status, title = "HW013", 409, "A finished step ran again"


class UnknownTask(HowdahError):
    sqlstate, status, title = "HW014", 404, "Unknown task"


class TooLarge(HowdahError):
    sqlstate, status, title = "HW015", 413, "Too large"


class BadValue(HowdahError):
    sqlstate, status, title = "HW016", 422, "A value that cannot be stored"


class DatabaseUnfit(HowdahError):
    sqlstate, status, title = "HW017", 503, "The database cannot be used"


class QueueFull(HowdahError):
    sqlstate, status, title = "HW018", 429, "The queue is full"


class UnknownSchedule(HowdahError):
    sqlstate, status, title = "HW019", 404, "Unknown schedule"


class BadSchedule(HowdahError):
    sqlstate, status, title = "HW020", 422, "A schedule that cannot be kept"


class UnknownQueue(HowdahError):
    sqlstate, status, title = "HW021", 404, "Unknown queue"


class NotAChoice(HowdahError):
    sqlstate, status, title = "HW022", 422, "Not one of the choices"


class UnknownConsumer(HowdahError):
    sqlstate, status, title = "HW023", 404, "Unknown consumer"


class NoSuchEvent(HowdahError):
    sqlstate, status, title = "HW024", 422, "No event with this number yet"


class SessionFull(HowdahError):
    sqlstate, status, title = "HW025", 429, "The session is full"


BY_SQLSTATE: dict[str, type[HowdahError]] = {error.sqlstate: error for error in HowdahError.__subclasses__()}


def from_psycopg(error: psycopg.Error) -> HowdahError | None:
    """The engine's own error behind a psycopg error, with its message and hint; None where it is not one of ours."""
    kind = BY_SQLSTATE.get(error.sqlstate or "")
    if kind is None:
        return None
    hint = error.diag.message_hint
    message = error.diag.message_primary or str(error)
    return kind(f"{message}; {hint}" if hint else message)
