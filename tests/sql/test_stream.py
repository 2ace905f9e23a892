"""Streams in SQL: numbers without gaps, producers' keys, closing, and what concurrent writers may do to one another."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import errors

Rows = list[tuple[object, ...]]


@pytest.fixture(autouse=True)
def session(db: psycopg.Connection) -> str:
    db.execute("select create_session('default', 'case-7')")
    return "case-7"


@pytest.fixture
def other(conninfo: str) -> Iterator[psycopg.Connection]:
    """A second connection."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def watcher(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection that only looks."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


def append(db: psycopg.Connection, *types: str, keys: list[str | None] | None = None, wait: bool = True) -> Rows:
    return db.execute(
        "select seq, status from append_events(%s, %s, %s, %s, %s::text[], %s)",
        [
            ["default"] * len(types),
            ["case-7"] * len(types),
            list(types),
            ["{}"] * len(types),
            keys,
            wait,
        ],
    ).fetchall()


def read(db: psycopg.Connection, session: str = "case-7") -> Rows:
    return db.execute("select seq, type from read_events('default', %s)", [session]).fetchall()


def is_waiting(db: psycopg.Connection, pid: int) -> bool:
    row = db.execute("select cardinality(pg_blocking_pids(%s)) > 0", [pid]).fetchone()
    return row is not None and bool(row[0])


def until_waiting(db: psycopg.Connection, pid: int) -> None:
    """Returns once backend `pid` waits for a lock."""
    for _ in range(100_000):
        if is_waiting(db, pid):
            return
    pytest.fail("the second transaction did not wait")


def test_events_are_numbered_from_one_without_gaps(db: psycopg.Connection) -> None:
    assert append(db, "a", "b") == [(1, "created"), (2, "created")]
    assert append(db, "c") == [(3, "created")]
    assert read(db) == [(1, "a"), (2, "b"), (3, "c")]


def test_sessions_count_by_themselves(db: psycopg.Connection) -> None:
    db.execute("select create_session('default', 'case-8')")
    rows = db.execute(
        "select seq from append_events('{default,default,default}', '{case-7,case-8,case-7}', '{a,b,c}', '{1,2,3}')"
    ).fetchall()
    assert rows == [(1,), (1,), (2,)]


def test_a_batch_that_is_rolled_back_leaves_no_gap(db: psycopg.Connection) -> None:
    append(db, "kept")
    with db.transaction(force_rollback=True):
        assert append(db, "lost", "lost") == [(2, "created"), (3, "created")]
    assert append(db, "next") == [(2, "created")]


def test_a_key_seen_before_changes_nothing_and_answers_the_first_number(db: psycopg.Connection) -> None:
    append(db, "a", "b", keys=[None, "k"])
    assert append(db, "again", "c", keys=["k", None]) == [(2, "existing"), (3, "created")]
    assert read(db) == [(1, "a"), (2, "b"), (3, "c")]


def test_a_key_twice_in_one_batch_is_one_event(db: psycopg.Connection) -> None:
    assert append(db, "a", "twin", "b", keys=["k", "k", "l"]) == [(1, "created"), (1, "existing"), (2, "created")]
    assert read(db) == [(1, "a"), (2, "b")]


def test_a_key_counts_in_its_own_session_only(db: psycopg.Connection) -> None:
    append(db, "a", keys=["k"])
    db.execute("select create_session('default', 'case-8')")
    row = db.execute("select seq, status from append_event('default', 'case-8', 'b', '{}', 'k')").fetchone()
    assert row == (1, "created")


def test_a_refused_item_does_not_fail_its_neighbours(db: psycopg.Connection) -> None:
    db.execute("select create_session('default', 'over')")
    db.execute("select close_session('default', 'over')")
    rows = db.execute(
        "select seq, status from append_events('{default,default,default,acme}', '{nowhere,case-7,over,case-7}',"
        " '{a,b,c,d}', '{1,2,3,4}')"
    ).fetchall()
    assert rows == [(None, "unknown_session"), (1, "created"), (None, "closed"), (None, "unknown_session")]


def test_one_event_for_an_unknown_session_raises(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        db.execute("select append_event('default', 'nowhere', 'a')")
    assert raised.value.sqlstate == "HW006"


def test_one_event_for_a_closed_session_raises(db: psycopg.Connection) -> None:
    db.execute("select close_session('default', 'case-7')")
    with pytest.raises(psycopg.Error) as raised:
        db.execute("select append_event('default', 'case-7', 'a')")
    assert raised.value.sqlstate == "HW007"


def test_closing_twice_is_closing_once(db: psycopg.Connection) -> None:
    append(db, "a")
    first = db.execute("select * from close_session('default', 'case-7')").fetchone()
    closed_at = db.execute("select closed_at from session").fetchone()
    assert db.execute("select * from close_session('default', 'case-7')").fetchone() == first == (1,)
    assert db.execute("select closed_at from session").fetchone() == closed_at


def test_closing_an_unknown_session_raises(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        db.execute("select close_session('default', 'nowhere')")
    assert raised.value.sqlstate == "HW006"


def test_opening_a_session_twice_leaves_it_as_it_is(db: psycopg.Connection) -> None:
    append(db, "a")
    assert db.execute("select * from create_session('default', 'case-7')").fetchone() == (False,)
    assert append(db, "b") == [(2, "created")]


def test_a_session_of_an_unknown_tenant_raises(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        db.execute("select create_session('nobody', 'case-7')")
    assert raised.value.sqlstate == "HW009"


def test_a_session_id_that_is_no_name_is_refused(db: psycopg.Connection) -> None:
    for name in ("", "-x", "run:7x", "runs:7", "a b", "a/b", "x" * 129, "ü"):
        with pytest.raises(errors.CheckViolation):
            db.execute("select create_session('default', %s)", [name])


def test_a_page_begins_after_its_number_and_has_its_limit(db: psycopg.Connection) -> None:
    append(db, *"abcdef")
    assert db.execute("select seq from read_events('default', 'case-7', 2, 3)").fetchall() == [(3,), (4,), (5,)]


def test_one_catch_up_serves_many_readers(db: psycopg.Connection) -> None:
    append(db, *"abc")
    db.execute("select create_session('default', 'silent')")
    db.execute("select close_session('default', 'silent')")
    rows = db.execute(
        "select ord, last_seq, state, seq from read_sessions("
        "'{default,default,default,default,acme}', '{case-7,silent,nowhere,case-7,case-7}', '{1,0,0,0,0}', 2)"
    ).fetchall()
    assert rows == [
        (1, 3, "open", 2),
        (1, 3, "open", 3),
        (2, 0, "closed", None),
        (4, 3, "open", 1),
        (4, 3, "open", 2),
    ]


def test_an_append_tells_listeners_which_session_has_news(db: psycopg.Connection, other: psycopg.Connection) -> None:
    other.execute('listen "howdah.events"')
    append(db, "a", "b")
    db.execute("select close_session('default', 'case-7')")
    hints = [hint.payload for hint in other.notifies(timeout=10, stop_after=2)]
    assert hints == ["default/case-7", "default/case-7"]


def test_a_writer_may_ask_that_nobody_is_told(db: psycopg.Connection, other: psycopg.Connection) -> None:
    other.execute('listen "howdah.events"')
    db.execute("select append_event('default', 'case-7', 'a', p_notify => false)")
    db.execute("""select pg_notify('howdah.events', 'last')""")
    assert [hint.payload for hint in other.notifies(timeout=10, stop_after=1)] == ["last"]


def test_two_writers_of_one_session_wait_for_one_another(
    db: psycopg.Connection, other: psycopg.Connection, watcher: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with db.transaction():
            assert append(db, "first") == [(1, "created")]
            second = threads.submit(append, other, "second")
            until_waiting(watcher, other.info.backend_pid)
        assert second.result(30) == [(2, "created")]
    assert read(db) == [(1, "first"), (2, "second")]


def test_a_writer_who_does_not_wait_is_told_busy_and_nothing_is_written(
    db: psycopg.Connection, other: psycopg.Connection
) -> None:
    with db.transaction():
        append(db, "first")
        assert append(other, "second", wait=False) == [(None, "busy")]
    assert append(other, "second", wait=False) == [(2, "created")]


def test_the_same_key_from_two_writers_is_one_event(
    db: psycopg.Connection, other: psycopg.Connection, watcher: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with db.transaction():
            append(db, "first", keys=["k"])
            second = threads.submit(append, other, "second", keys=["k"])
            until_waiting(watcher, other.info.backend_pid)
        assert second.result(30) == [(1, "existing")]
    assert read(db) == [(1, "first")]


def test_an_append_that_waited_for_a_close_is_refused(
    db: psycopg.Connection, other: psycopg.Connection, watcher: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with db.transaction():
            db.execute("select close_session('default', 'case-7')")
            late = threads.submit(append, other, "late")
            until_waiting(watcher, other.info.backend_pid)
        assert late.result(30) == [(None, "closed")]
    assert read(db) == []


def test_writers_of_many_sessions_in_any_order_do_not_deadlock(db: psycopg.Connection, conninfo: str) -> None:
    names = [f"s{number}" for number in range(10)]
    for name in names:
        db.execute("select create_session('default', %s)", [name])

    def write(order: list[str]) -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for _ in range(50):
                connection.execute(
                    "select append_events(%s, %s, %s, %s)",
                    [["default"] * 10, order, ["a"] * 10, ["{}"] * 10],
                )

    with ThreadPoolExecutor(4) as threads:
        orders = [names, names[::-1], names[5:] + names[:5], names[::-2] + names[::2][::-1]]
        list(threads.map(write, orders))
    rows = db.execute("select count(*), max(seq), sum(seq) from event group by session_id").fetchall()
    assert rows == [(200, 200, 200 * 201 // 2)] * 10


def test_an_isolation_level_under_which_numbers_could_repeat_is_refused(db: psycopg.Connection) -> None:
    db.execute("begin isolation level repeatable read")
    with pytest.raises(psycopg.Error) as raised:
        append(db, "a")
    db.execute("rollback")
    assert raised.value.sqlstate == "HW008"


def test_a_run_without_a_session_writes_to_one_of_its_own(db: psycopg.Connection) -> None:
    row = db.execute("select run_id from enqueue_run('default', 'invoice.send')").fetchone()
    assert row is not None
    db.execute("select claim_runs(w.worker_id, '{default}', 1) from register_worker('w', '{default}') as w")
    flushed = db.execute(
        "select status from flush(array[%s::bigint], '{1}', '{event}', '{a}', array['{}'], '{null}', '{null}')",
        [row[0]],
    ).fetchall()
    assert flushed == [("ok",)]
    assert read(db, f"run:{row[0]}") == [(1, "a")]


def test_a_run_may_write_to_a_session_that_was_closed_meanwhile(db: psycopg.Connection) -> None:
    row = db.execute("select run_id from enqueue_run('default', 'invoice.send', p_session => 'case-7')").fetchone()
    assert row is not None
    db.execute("select claim_runs(w.worker_id, '{default}', 1) from register_worker('w', '{default}') as w")
    db.execute("select close_session('default', 'case-7')")
    db.execute(
        "select flush(array[%s::bigint], '{1}', '{event}', '{note.added}', array['{}'], '{null}', '{null}')", [row[0]]
    )
    assert read(db) == [(1, "note.added")]


def test_a_worker_does_not_wait_for_a_session_that_a_client_holds(
    db: psycopg.Connection, other: psycopg.Connection
) -> None:
    row = db.execute("select run_id from enqueue_run('default', 'invoice.send', p_session => 'case-7')").fetchone()
    assert row is not None
    db.execute("select claim_runs(w.worker_id, '{default}', 1) from register_worker('w', '{default}') as w")
    flush = "select status from flush(array[%s::bigint], '{1}', '{event}', '{b}', array['{}'], '{null}', '{null}')"
    with other.transaction():
        append(other, "a")
        assert db.execute(flush, [row[0]]).fetchall() == [("busy",)]
    assert db.execute(flush, [row[0]]).fetchall() == [("ok",)]
    assert read(db) == [(1, "a"), (2, "b")]


def test_the_key_that_signs_stream_tokens_is_the_same_for_all(
    db: psycopg.Connection, other: psycopg.Connection, watcher: psycopg.Connection
) -> None:
    with ThreadPoolExecutor(1) as threads:
        with db.transaction():
            mine = db.execute("select * from stream_secret()").fetchone()
            theirs = threads.submit(lambda: other.execute("select * from stream_secret()").fetchone())
            until_waiting(watcher, other.info.backend_pid)
        assert theirs.result(30) == mine
    assert mine is not None
    assert len(mine[0]) == 32
