"""Every setting, with meaning, unit and default. All come from the environment; `howdah settings` prints this page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from typing import Any


class SettingError(ValueError):
    """A setting's value cannot be used; the message names the variable, the value and what would do."""


def _setting(variable: str, default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"variable": variable, "meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one process."""

    database_url: str | None = _setting(
        "DATABASE_URL", None, "PostgreSQL ≥ 16 with pgvector ≥ 0.8.4; unset: the embedded server in HOWDAH_HOME"
    )
    pooled: bool = _setting(
        "HOWDAH_POOLED",
        False,
        "true: DATABASE_URL is a pooler's in transaction mode, so poll instead of LISTEN; see deploy/pgbouncer.ini",
    )
    home: str = _setting("HOWDAH_HOME", ".howdah", "folder of the embedded server and of what `howdah up` remembers")
    cell: str = _setting("HOWDAH_CELL", "howdah", "schema that holds this installation's tables")
    host: str = _setting("HOWDAH_HOST", "127.0.0.1", "address on which the API listens")
    port: int = _setting("HOWDAH_PORT", 8000, "port of the API; 0: any free one")
    api_pool_size: int = _setting("HOWDAH_API_POOL_SIZE", 10, "database connections of one API process")
    max_body_bytes: int = _setting("HOWDAH_MAX_BODY_BYTES", 33554432, "largest request body, in bytes (32 MiB)")
    stream_token_seconds: int = _setting(
        "HOWDAH_STREAM_TOKEN_SECONDS", 300, "life of a browser's stream token, in seconds"
    )
    stream_token_secret: str | None = _setting(
        "HOWDAH_STREAM_TOKEN_SECRET", None, "secret that signs stream tokens; unset: kept in the database"
    )
    streams_per_process: int = _setting(
        "HOWDAH_STREAMS_PER_PROCESS", 20000, "event streams that one API process has open at most"
    )
    streams_per_tenant: int = _setting(
        "HOWDAH_STREAMS_PER_TENANT", 10000, "event streams of one tenant that one API process has open at most"
    )
    streams_per_key: int = _setting(
        "HOWDAH_STREAMS_PER_KEY", 10000, "the same of one API key, with the stream tokens that were made by it"
    )
    heartbeat_seconds: float = _setting("HOWDAH_HEARTBEAT_SECONDS", 3.0, "a worker's heartbeat interval, in seconds")
    rescue_seconds: float = _setting(
        "HOWDAH_RESCUE_SECONDS", 15.0, "silence after which a worker's runs go back to the queue, in seconds"
    )
    shutdown_seconds: float = _setting(
        "HOWDAH_SHUTDOWN_SECONDS", 10.0, "how long SIGTERM lets runs finish before they are handed back, in seconds"
    )
    worker_concurrency: int = _setting(
        "HOWDAH_WORKER_CONCURRENCY", 500, "runs that one worker process has under way at once"
    )
    retention_days: int = _setting(
        "HOWDAH_RETENTION_DAYS", 30, "days for which finished runs and their steps are kept; 0: for ever"
    )
    event_days: int = _setting(
        "HOWDAH_EVENT_DAYS",
        30,
        "days for which a session's events are kept, unless its tenant says otherwise; 0: for ever",
    )
    openai_api_key: str | None = _setting("OPENAI_API_KEY", None, "turns on models behind the OpenAI protocol")
    openai_base_url: str | None = _setting("OPENAI_BASE_URL", None, "another server that speaks the OpenAI protocol")
    api_allow_private: tuple[str, ...] = _setting(
        "HOWDAH_API_ALLOW_PRIVATE", (), "private networks that run.call may reach, comma-separated, such as 10.1.0.0/16"
    )
    log_level: str = _setting("HOWDAH_LOG_LEVEL", "info", "debug, info, warning or error")


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment.

    Raises
    ------
    SettingError
        If a value has the wrong form.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for setting in fields(Settings):
        variable = setting.metadata["variable"]
        text = environment.get(variable, "")
        if text:
            values[setting.name] = _parse(str(setting.type), variable, text)
    return Settings(**values)


def describe_settings() -> list[tuple[str, str, str]]:
    """(variable, default, meaning) of each setting, in order."""
    return [(f.metadata["variable"], _written(f.default), f.metadata["meaning"]) for f in fields(Settings)]


def _written(default: Any) -> str:
    if default in (None, ()):
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("write true or false")
    return text.lower() == "true"


def _parse(kind: str, variable: str, text: str) -> Any:
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return _switch(text)
        if kind.startswith("tuple"):
            return tuple(str(ip_network(part.strip())) for part in text.split(","))
    except ValueError as error:
        raise SettingError(f"{variable}={text!r} cannot be used: {error}") from error
    return text
