"""The Makefile explains itself, and a Python that cannot serve is told so in a sentence."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_help_lists_every_target_in_a_line(clone: Path) -> None:
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    listed = re.findall(r"^  make (\w+) +\S", make(clone, "help").stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony.split())


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('case "$2" in *venv*) exit 1;; *) exit 0;; esac', "apt-get install python3-venv"),
        ('case "$2" in *version_info*) exit 1;; *) echo "Python 3.9.2";; esac', "needs Python 3.11 or later"),
    ],
)
def test_a_python_that_cannot_serve_is_told_what_to_install(clone: Path, body: str, sentence: str) -> None:
    python = clone / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    done = make(clone, "install", f"PYTHON={python}")
    assert done.returncode != 0
    assert sentence in done.stdout
    assert not (clone / ".venv").exists()


def test_a_missing_python_is_told_by_name(clone: Path) -> None:
    done = make(clone, "install", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "no no-such-python here" in done.stdout


def test_the_lock_file_names_no_address_and_hashes_everything() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    pins = re.findall(r"^[A-Za-z0-9._-]+==\S+", lock, re.MULTILINE)
    assert len(pins) > 60
    assert len(re.findall(r"^[A-Za-z0-9._-]+==[^\n]*\\\n    --hash=sha256:", lock, re.MULTILINE)) == len(pins)
