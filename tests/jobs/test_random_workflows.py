"""Random workflows under random deaths of their workers end as plain Python says.

More of them: `HOWDAH_HUNT=500 python -m pytest tests/jobs/test_random_workflows.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from howdah.sql.pool import connect
from tests.jobs.deaths import run_to_its_end, strikes
from tests.jobs.tree_worker import Refused, Tree, work_on_trees
from tests.sql.engine import enqueue, rows

HUNT = int(os.environ.get("HOWDAH_HUNT", "0"))

pytestmark = pytest.mark.long

leaves = st.one_of(
    st.tuples(st.just("step"), st.integers(-5, 5)).map(list),
    st.tuples(st.just("thread"), st.integers(-5, 5)).map(list),
    st.tuples(st.just("pay"), st.integers(1, 9)).map(list),
    st.tuples(st.just("sleep"), st.integers(1, 30)).map(list),
    st.tuples(st.just("map"), st.lists(st.integers(-5, 5), max_size=5), st.integers(1, 3)).map(list),
    # Fails so many times and may be tried again so many times: by itself, or as a rest.
    st.tuples(st.just("flaky"), st.integers(0, 3), st.integers(0, 3), st.booleans()).map(list),
    st.tuples(st.just("emit"), st.integers(0, 3)).map(list),
)


def branches(of: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    some = st.lists(of, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.just("all"), some).map(list),
        st.tuples(st.just("beside"), some).map(list),
        st.tuples(st.just("children"), some).map(list),
        st.tuples(st.just("caught"), of, of).map(list),
    )


trees = st.recursive(leaves, branches, max_leaves=10)


def plain(tree: Tree) -> Any:
    """What the tree comes to, in plain Python."""
    match tree:
        case ["step" | "thread" | "pay", number]:
            return number * 2
        case ["sleep" | "emit", number]:
            return number
        case ["map", numbers, _]:
            return [number * 2 for number in numbers]
        case ["flaky", failures, retries, _]:
            if failures > retries:
                raise Refused(f"{failures} > {retries}")
            return failures
        case ["all" | "beside" | "children", trees]:
            return [plain(tree) for tree in trees]
        case ["caught", tree, instead]:
            try:
                return plain(tree)
            except Refused as error:
                return ["caught", *error.args, plain(instead)]
    raise AssertionError(tree)


def safe(tree: Tree) -> bool:
    """Whether no failure of it goes up through a gather or children: which of several is then told is open."""
    match tree:
        case ["beside" | "children", trees]:
            return all(safe(tree) and not fails(tree) for tree in trees)
        case ["all", trees]:
            return all(map(safe, trees))
        case ["caught", *trees]:
            return all(map(safe, trees))
    return True


def fails(tree: Tree) -> bool:
    try:
        plain(tree)
    except Refused:
        return True
    return False


@given(tree=trees.filter(safe), deaths=st.lists(st.integers(1, 40), max_size=3))
@settings(
    max_examples=HUNT or 15,
    deadline=None,
    derandomize=not HUNT,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_a_random_workflow_ends_as_plain_python_says(
    prepared: str, tmp_path: Path, tree: Tree, deaths: list[int]
) -> None:
    """Of each number in `deaths`, a worker dies at that point of its work."""
    queue = f"trees-{next(_numbers)}"
    state, got = asyncio.run(run_tree(prepared, queue, tmp_path, tree, deaths))
    log = tmp_path / f"{queue}.log"
    note(log.read_text()[-3000:] if log.exists() else "no log")
    try:
        expected: tuple[str, Any] = "succeeded", plain(tree)
    except Refused as error:
        expected = "failed", str(error)
    assert (state, got) == expected


_numbers = itertools.count()


async def run_tree(conninfo: str, queue: str, folder: Path, tree: Tree, deaths: list[int]) -> tuple[str, Any]:
    """How the run of `tree` ended."""
    async with await connect(conninfo) as connection:
        args = msgspec.json.encode({"task": {"queue": queue, "tree": tree}}).decode()
        (run_id,) = await enqueue(connection, task="tree", args=args, queue=queue)
        end = await run_to_its_end(connection, run_id, work_on_trees, strikes(conninfo, queue, folder, deaths))
        twice = "select path from public.paid_for group by run_id, path having count(*) > 1"
        assert await rows(connection, twice) == []
        return end


@pytest.fixture
def prepared(conninfo: str, db: psycopg.Connection) -> str:
    """A database with tables for what steps do to the world."""
    db.execute(
        "create table public.effect"
        " (run_id bigint, what text, attempt integer, at timestamptz default clock_timestamp())"
    )
    db.execute("create table public.paid_for (run_id bigint, path text)")
    return conninfo
