"""Reading compose.yaml without Docker."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tests.deploy.images import DEPLOY

COMPOSE = DEPLOY / "compose.yaml"
OURS = ("migrate", "api", "worker")


def read_compose() -> dict[str, Any]:
    """The file as data, merge keys resolved, variables as written."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """`text` with each ``${NAME:?message}`` and ``${NAME:-default}`` replaced.

    Raises
    ------
    KeyError
        With the name, if a variable without a default is missing or empty.
    """

    def replace(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        value = variables.get(name, "")
        if not value and kind == ":?":
            raise KeyError(name)
        return value or default

    return re.sub(r"\$\{(\w+)(:[?-])([^}]*)\}", replace, text)


def service_environment(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    """What a service's processes find in their environment."""
    environment: dict[str, str] = read_compose()["services"][service]["environment"]
    return {name: interpolate(value, variables) for name, value in environment.items()}
