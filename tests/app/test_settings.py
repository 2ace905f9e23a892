"""Settings read as a manual page, and bad values are told apart from good ones at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from howdah.app.settings import SettingError, describe_settings, load_settings

ROOT = Path(__file__).parents[2]


def test_every_setting_has_a_variable_and_a_meaning() -> None:
    for variable, _, meaning in describe_settings():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]+", variable)
        assert len(meaning) > 20, f"{variable} has no meaning"


def test_every_amount_says_its_unit() -> None:
    for variable, _, meaning in describe_settings():
        if variable.endswith("_SECONDS"):
            assert "in seconds" in meaning, variable
        if variable.endswith("_BYTES"):
            assert "in bytes" in meaning, variable


def test_no_other_variable_is_read_anywhere() -> None:
    known = {variable for variable, _, _ in describe_settings()}
    read = set()
    for package in ("app", "jobs", "router", "sql", "migrations"):
        for path in (ROOT / package).rglob("*.py"):
            read |= set(re.findall(r"\b(?:HOWDAH_[A-Z_]+|OPENAI_[A-Z_]+|DATABASE_URL)\b", path.read_text()))
    assert read <= known


def test_a_value_of_the_wrong_form_is_refused_by_name() -> None:
    with pytest.raises(SettingError, match="HOWDAH_PORT='eighty'"):
        load_settings({"HOWDAH_PORT": "eighty"})
    with pytest.raises(SettingError, match="HOWDAH_API_ALLOW_PRIVATE"):
        load_settings({"HOWDAH_API_ALLOW_PRIVATE": "10.0.0.0/99"})


def test_an_empty_value_means_the_default() -> None:
    assert load_settings({"HOWDAH_PORT": "", "DATABASE_URL": ""}) == load_settings({})
