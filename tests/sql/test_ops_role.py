"""What the role howdah_operator may do: everything in `ops`, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from howdah.sql.pool import Connection
from tests.sql.engine import enqueue, new_worker, value

# A call of each function of `ops`; a test insists that none is missing.
CALLS = {
    "cancel_queued": """ops.cancel_queued('{"task": "none"}')""",
    "cancel_run": "ops.cancel_run(1)",
    "change_run": "ops.change_run(1, 5)",
    "discard_failed": "ops.discard_failed()",
    "discard_run": "ops.discard_run(1)",
    "drain_worker": "ops.drain_worker(1)",
    "drop_consumer": "ops.drop_consumer('default', 's', 'c')",
    "events": "ops.events('default', 's')",
    "explain_run": "ops.explain_run(1)",
    "fork_run": "ops.fork_run(1, 0)",
    "lock_waits": "ops.lock_waits()",
    "pause_queue": "ops.pause_queue('default')",
    "pause_task": "ops.pause_task('t')",
    "pause_tenant": "ops.pause_tenant('default')",
    "queue_depth": "ops.queue_depth('default')",
    "requeue_failed": "ops.requeue_failed()",
    "requeue_run": "ops.requeue_run(1)",
    "resume_queue": "ops.resume_queue('default')",
    "resume_task": "ops.resume_task('t')",
    "resume_tenant": "ops.resume_tenant('default')",
    "revoke_api_key": "ops.revoke_api_key('0123')",
    "run_tree": "ops.run_tree(1)",
    "send_signal": "ops.send_signal(1, 'approval')",
    "set_event_days": "ops.set_event_days('default', 7)",
    "set_limit": "ops.set_limit('default', 'max_running', 5)",
    "set_weight": "ops.set_weight('default', 2)",
    "set_window": "ops.set_window('default', 's', 5)",
}


@pytest.fixture
def operator(database_url: str, db: psycopg.Connection) -> Iterator[psycopg.Connection]:
    db.execute("select register_tasks(array['t'], array['task'], array['default'], array['{}'], array[''])")
    db.execute("select create_session('default', 's')")
    with psycopg.connect(database_url, autocommit=True) as opened:
        opened.execute("set role howdah_operator; set search_path = public")
        yield opened


def names(db: psycopg.Connection, query: str) -> list[str]:
    return [name for (name,) in db.execute(query.encode()).fetchall()]


def test_every_view_is_read(operator: psycopg.Connection, db: psycopg.Connection) -> None:
    views = names(db, "select viewname from pg_views where schemaname = 'ops'")
    assert len(views) > 10
    for view in views:
        operator.execute(f"select * from ops.{view}".encode())


def test_every_function_is_called(operator: psycopg.Connection, db: psycopg.Connection) -> None:
    assert names(db, "select proname from pg_proc where pronamespace = 'ops'::regnamespace order by 1") == list(CALLS)
    for name, call in CALLS.items():
        if name == "fork_run":
            with pytest.raises(psycopg.Error, match="run 1 is unknown"):
                operator.execute(f"select * from {call}".encode())
        else:
            operator.execute(f"select * from {call}".encode())


async def test_an_operator_acts_on_a_run(operator: psycopg.Connection, connection: Connection) -> None:
    (run,) = await enqueue(connection, session_id="s", order="block")
    assert operator.execute("select * from ops.change_run(%s, 9)", [run]).fetchall() == [(run, "changed")]
    assert operator.execute("select priority from ops.runs").fetchall() == [(9,)]
    assert operator.execute("select * from ops.cancel_run(%s)", [run]).fetchall() == [(run, "cancelled")]
    assert operator.execute("select * from ops.requeue_run(%s)", [run]).fetchall() == [(run, "requeued")]
    assert operator.execute("select * from ops.send_signal(%s, 'go')", [run]).fetchall() == [(run, "sent")]
    (forked,) = operator.execute("select run_id from ops.fork_run(%s, 0)", [run]).fetchall()
    assert operator.execute("select run_id, depth from ops.run_tree(%s)", forked).fetchall() == [(*forked, 0)]


def test_the_cells_tables_and_functions_are_closed(operator: psycopg.Connection, db: psycopg.Connection) -> None:
    relations = names(
        db,
        "select oid::regclass::text from pg_class where relnamespace = 'howdah'::regnamespace"
        " and relkind in ('r', 'p', 'v', 'S')",
    )
    assert len(relations) > 20
    for relation in relations:
        for what in (f"select from howdah.{relation}", f"delete from howdah.{relation}"):
            with pytest.raises(errors.InsufficientPrivilege):
                operator.execute(what.encode())
    with pytest.raises(errors.InsufficientPrivilege):
        operator.execute("select * from howdah.create_tenant('mine')")
    for name in ("ops", "howdah", "public"):
        with pytest.raises(errors.InsufficientPrivilege):
            operator.execute(f"create table {name}.mine ()".encode())
    for view in ("tenants", "tasks", "api_keys"):
        with pytest.raises(errors.InsufficientPrivilege):
            operator.execute(f"delete from ops.{view}".encode())


def test_nobody_else_may_call_them(db: psycopg.Connection) -> None:
    open_to_all = names(
        db,
        "select p.proname from pg_proc as p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a"
        " where p.pronamespace = 'ops'::regnamespace and a.grantee = 0",
    )
    assert open_to_all == []


async def test_a_temporary_table_does_not_stand_in_for_the_engines(
    operator: psycopg.Connection, connection: Connection
) -> None:
    worker = await new_worker(connection)
    operator.execute("create temporary table worker as select id, name, true as draining from ops.workers")
    assert operator.execute("select status from ops.drain_worker(%s)", [worker]).fetchall() == [("asked",)]
    assert await value(connection, "select draining from worker")


def test_functions_of_ops_have_the_cell_first_in_their_path(db: psycopg.Connection) -> None:
    paths = names(
        db,
        "select distinct coalesce((select s from unnest(proconfig) as s where s like 'search_path=%'), 'none')"
        " from pg_proc where pronamespace = 'ops'::regnamespace",
    )
    assert paths == ["search_path=howdah, public, pg_temp"]
    assert names(db, "select proname from pg_proc where pronamespace = 'ops'::regnamespace and not prosecdef") == []


def test_an_owner_who_may_not_create_roles_is_told_and_goes_on(db: psycopg.Connection) -> None:
    db.execute("create role howdah_plain_owner")
    try:
        db.execute("begin")
        db.execute("alter role howdah_operator rename to howdah_operator_elsewhere")
        db.execute("create schema authorization howdah_plain_owner; grant usage on schema howdah to howdah_plain_owner")
        heard: list[str] = []
        db.add_notice_handler(lambda notice: heard.append(f"{notice.message_primary}; {notice.message_hint}"))
        db.execute("set local role howdah_plain_owner; set local search_path = howdah")
        db.execute("select grant_operators('howdah_plain_owner')")
        db.execute("rollback")
        assert heard == [
            "there is no role howdah_operator, and howdah_plain_owner may not create it;"
            " have it created, then: select grant_operators('howdah_plain_owner')"
        ]
    finally:
        db.execute("drop role howdah_plain_owner")
