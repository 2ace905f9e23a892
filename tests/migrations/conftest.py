"""Databases with nothing in them, to migrate."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql


@pytest.fixture
def empty_database_url(database_url: str) -> Iterator[str]:
    """URL of a database beside the test's own, without Howdah's schema."""
    server, _, name = database_url.rpartition("/")
    empty = f"{name}_empty_{os.getpid()}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(empty)))
        yield f"{server}/{empty}"
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(empty)))
