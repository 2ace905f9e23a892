"""deploy/Containerfile: what it copies is there, what it builds is whole, what it runs exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from howdah.app.cli import cli
from tests.deploy.images import (
    DEPLOY,
    TOP,
    copied_from_context,
    image_environment,
    image_instructions,
    read_containerfile,
)

PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())


def ignore_rules() -> list[str]:
    lines = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_what_it_copies_is_there() -> None:
    missing = [path for path in copied_from_context() if not (TOP / path).exists()]
    assert missing == []


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    first, *rest = ignore_rules()
    assert first == "*"
    assert {rule[1:] for rule in rest if rule.startswith("!")} == set(copied_from_context())


def test_every_folder_of_the_package_is_copied() -> None:
    assert set(PROJECT["tool"]["setuptools"]["package-dir"].values()) <= set(copied_from_context())


def test_the_wheel_built_from_what_is_copied_is_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in copied_from_context():
        path = TOP / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
         "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)],
        check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("howdah-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    folders = PROJECT["tool"]["setuptools"]["package-dir"].values()
    needed = {
        f"howdah/{path.relative_to(source)}"
        for folder in folders
        for path in (source / folder).rglob("*")
        if path.suffix in (".py", ".sql", ".typed", ".mako")
    }
    assert needed - packed == set()


def test_everything_that_is_fetched_has_its_hash_checked() -> None:
    installs = [one.text for one in read_containerfile() if one.name == "RUN" and "pip " in one.text]
    commands = [command.strip() for text in installs for command in text.split("&&")]
    assert commands
    for command in commands:
        local = "--no-deps" in command and ("--no-index" in command or "--no-build-isolation" in command)
        assert local or "--require-hashes -r requirements.lock" in command, command


def test_the_lock_holds_what_builds_the_wheel() -> None:
    assert PROJECT["build-system"]["requires"] == ["setuptools>=80"]
    assert re.search(r"^setuptools==", (TOP / "requirements.lock").read_text(), re.MULTILINE)


def test_base_images_are_named_by_a_version_that_the_project_supports() -> None:
    bases = [one.words[0] for one in read_containerfile() if one.name == "FROM"]
    assert set(bases) == {"python:3.11-slim"}


def test_it_runs_as_nobody_in_particular() -> None:
    (user,) = image_instructions("USER")
    uid, _, gid = user.text.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0


def test_it_starts_a_command_of_howdahs_and_stops_by_sigterm() -> None:
    (entry,), (command,), (stop,) = (image_instructions(name) for name in ("ENTRYPOINT", "CMD", "STOPSIGNAL"))
    # Arrays: a shell between would keep the signal for itself.
    assert entry.text == '["howdah"]'
    assert command.text.startswith("[")
    assert command.words[0] in cli.commands
    assert stop.text == "SIGTERM"


def test_commands_that_its_first_lines_promise_exist() -> None:
    (line,) = re.findall(r"^# .*: howdah (.+)\.$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert set(line.split(" | ")) <= set(cli.commands)


def test_it_listens_where_its_port_says() -> None:
    (exposed,) = image_instructions("EXPOSE")
    assert image_environment()["HOWDAH_PORT"] == exposed.text
    assert image_environment()["HOWDAH_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("rule", ["**/__pycache__", "**/*.pyc"])
def test_compiled_files_of_this_machine_stay_here(rule: str) -> None:
    assert ignore_rules().index(rule) > max(i for i, one in enumerate(ignore_rules()) if one.startswith("!"))
