"""Reading the Containerfile: enough of its syntax for what is written in ours."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Containerfile, continuation lines joined; `stage` counts from 0."""

    name: str
    text: str
    stage: int

    @property
    def words(self) -> list[str]:
        """Its words without options; those of a JSON array where it is one."""
        if self.text.startswith("["):
            found: list[str] = json.loads(self.text)
            return found
        return [word for word in shlex.split(self.text) if not word.startswith("--")]


def read_containerfile() -> list[Instruction]:
    """All instructions, in order."""
    lines = [line for line in (DEPLOY / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    found: list[Instruction] = []
    stage = -1
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        name, _, text = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(name, text.strip(), stage))
    return found


def image_instructions(name: str) -> list[Instruction]:
    """The instructions of this name in the last stage, which is the image."""
    everything = read_containerfile()
    return [one for one in everything if one.name == name and one.stage == everything[-1].stage]


def image_environment() -> dict[str, str]:
    """What ENV sets in the image."""
    return dict(word.split("=", 1) for one in image_instructions("ENV") for word in one.words)


def healthcheck_command() -> list[str]:
    """The command of HEALTHCHECK."""
    (check,) = image_instructions("HEALTHCHECK")
    command: list[str] = json.loads(check.text.partition("CMD ")[2])
    return command


def copied_from_context() -> list[str]:
    """Paths, from the top folder, that the build copies into the image."""
    copies = [one for one in read_containerfile() if one.name == "COPY" and "--from=" not in one.text]
    return [source for one in copies for source in one.words[:-1]]
