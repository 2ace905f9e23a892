"""Reading postgresql.conf."""

from __future__ import annotations

import re

from tests.deploy.images import DEPLOY

_SETTING = re.compile(r"(\w+) = '?([^'#]*?)'?")


def read_postgresql_conf() -> dict[str, str]:
    """The settings of deploy/postgresql.conf, as written, in order."""
    found: dict[str, str] = {}
    for line in (DEPLOY / "postgresql.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            match = _SETTING.fullmatch(line)
            assert match, f"not a setting: {line!r}"
            assert match[1] not in found, f"{match[1]} is set twice"
            found[match[1]] = match[2]
    return found
