"""deploy/postgresql.conf is accepted by a real server, setting by setting, and each setting has its reason."""

from __future__ import annotations

from itertools import pairwise

import psycopg

from tests.deploy.compose_file import read_compose
from tests.deploy.conftest import ConfiguredServer
from tests.deploy.images import DEPLOY
from tests.deploy.server_settings import read_postgresql_conf

BYTES = {"kB": 2**10, "MB": 2**20, "GB": 2**30, "gb": 2**30}


def in_bytes(text: str) -> int:
    return int(text[:-2]) * BYTES[text[-2:]]


def test_the_server_reads_the_file_without_an_error(configured_server: ConfiguredServer) -> None:
    with psycopg.connect(configured_server.url) as connection:
        read = connection.execute("select name, setting, error from pg_file_settings order by seqno").fetchall()
    assert read == [(name, value, None) for name, value in read_postgresql_conf().items()]


def test_the_server_runs_with_each_setting(configured_server: ConfiguredServer) -> None:
    with psycopg.connect(configured_server.url) as connection:
        running = {
            name: connection.execute("select current_setting(%s)", [name]).fetchone() for name in read_postgresql_conf()
        }
    assert running == {name: (value,) for name, value in read_postgresql_conf().items()}


def test_nothing_that_makes_a_commit_durable_is_switched_off(configured_server: ConfiguredServer) -> None:
    with psycopg.connect(configured_server.url) as connection:
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute("select current_setting(%s)", [name]).fetchone() == ("on",)


def test_no_time_limit_on_statements_is_set_for_everybody(configured_server: ConfiguredServer) -> None:
    with psycopg.connect(configured_server.url) as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("0",)


def test_each_setting_has_its_reason_above_it() -> None:
    lines = (DEPLOY / "postgresql.conf").read_text().splitlines()
    for above, line in pairwise(lines):
        if line and not line.startswith("#"):
            assert above, f"{line!r} follows an empty line: say why it is set"


def test_a_parallel_index_build_finds_its_shared_memory_in_the_container() -> None:
    shared = in_bytes(read_compose()["services"]["database"]["shm_size"])
    assert shared >= in_bytes(read_postgresql_conf()["maintenance_work_mem"])
