"""The verifier goes red: each promise it checks is broken here by hand, and it must say so, and say nothing else."""

from __future__ import annotations

import psycopg
import pytest

from tests.chaos.load import TABLES, Promise
from tests.chaos.verify import CHECKS, verify

PROMISES = {
    "t": Promise(steps=("a", "b"), events=2),
    "turn": Promise(events=1, told_to_fail="requeued"),
    "chaos.poison": Promise(told_to_fail="ends"),
}

# Two runs: 1 went straight through; 2 lost its worker in step b, and failed once before that. 3 killed its worker.
# 4 to 7 had their turns in an ordered session, a second each: 4 failed first and was requeued; the worker of 5 was
# frozen before it finished, and that of 6 before it began, and both woke when others had been given their runs.
KEPT = """
insert into chaos.chaos_enqueued
values (1, 't', false, 1, 1, null), (2, 't', true, 1, 2, null), (3, 'chaos.poison', true, 1, 3, null),
       (4, 'turn', true, 1, 4, 'o'), (5, 'turn', false, 1, 5, 'o'), (6, 'turn', false, 2, 1, 'o'),
       (7, 'turn', false, 2, 2, 'o');
insert into run_history
    (id, tenant_id, queue, task, state, priority, args, attempt, failures, deaths, finished_at, output)
values (1, 'default', 'q', 't', 'succeeded', 0, '{}', 1, 0, 0, now(), '{"a": "1a", "b": "1b"}'),
       (2, 'default', 'q', 't', 'succeeded', 0, '{}', 3, 1, 1, now(), '{"a": "2a", "b": "2b"}');
insert into chaos.chaos_execution (id, run_id, step, attempt)
values (gen_random_uuid(), 1, 'a', 1), (gen_random_uuid(), 1, 'b', 1),
       (gen_random_uuid(), 2, 'a', 1), (gen_random_uuid(), 2, 'a', 2),
       (gen_random_uuid(), 2, 'b', 2), (gen_random_uuid(), 2, 'b', 3);
insert into chaos.chaos_zombie values (2, 2);
insert into run_history
    (id, tenant_id, queue, task, state, priority, args, attempt, failures, deaths, finished_at, error)
values (3, 'default', 'q', 'chaos.poison', 'failed', 0, '{}', 5, 1, 0, now(), '{"type": "WorkerDied"}'),
       (4, 'default', 'q', 'turn', 'succeeded', 0, '{}', 2, 0, 0, now(), '{"type": "RuntimeError"}'),
       (5, 'default', 'q', 'turn', 'succeeded', 0, '{}', 2, 0, 0, now(), null),
       (6, 'default', 'q', 'turn', 'succeeded', 0, '{}', 2, 0, 0, now(), null),
       (7, 'default', 'q', 'turn', 'succeeded', 0, '{}', 1, 0, 0, now(), null);
insert into chaos.chaos_turn
select gen_random_uuid(), run_id, attempt, now() + began * interval '1 s', now() + ended * interval '1 s'
from (values (4, 1, 1, 2), (4, 2, 3, 4), (5, 1, 5, 20), (5, 2, 6, 7), (6, 2, 8, 9), (6, 1, 21, 22), (7, 1, 10, 11))
    as t(run_id, attempt, began, ended);
select set_queue_limits('limited', '{"max_running": 2, "max_running_per_tenant": 1}');
insert into chaos.chaos_sample (queue, running, of_one_tenant) values ('limited', 2, 1), ('limited', 0, 0);
insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at)
values (1, 'a', 'default', 1, '"1a"', now(), now()), (1, 'b', 'default', 1, '"1b"', now(), now()),
       (2, 'a', 'default', 2, '"2a"', now(), now()), (2, 'b', 'default', 3, '"2b"', now(), now());
insert into session (tenant_id, id, last_seq)
values ('default', 'shared', 4), ('default', 'empty', 0), ('default', 'o', 5);
insert into event (tenant_id, session_id, seq, type, data, run_id, created_at)
values ('default', 'shared', 1, 's', '1', 1, now()), ('default', 'shared', 2, 's', '1', 2, now()),
       ('default', 'shared', 3, 'end', '{}', 2, now()), ('default', 'shared', 4, 'end', '{}', 1, now()),
       ('default', 'o', 1, 'failed', '{}', 4, now()), ('default', 'o', 2, 'end', '{}', 4, now()),
       ('default', 'o', 3, 'end', '{}', 5, now()), ('default', 'o', 4, 'end', '{}', 6, now()),
       ('default', 'o', 5, 'end', '{}', 7, now());
"""

# (promise, what breaks it)
BREAKS = [
    (
        "every run that was enqueued ended, once",
        "insert into chaos.chaos_enqueued values (9, 'plain', false, 2, 3, null)",
    ),
    (
        "every run that was enqueued ended, once",
        "insert into run_history (id, tenant_id, queue, task, state, priority, args, attempt, failures, deaths,"
        " finished_at, output) select id, tenant_id, queue, task, state, priority, args, attempt, failures, deaths,"
        " finished_at + interval '1 second', output from run_history where id = 1",
    ),
    (
        "every run succeeded, but those that were told to fail for good",
        "update run_history set state = 'failed' where id = 1",
    ),
    (
        "a run that kills its worker failed for that, and none beside it did",
        'update run_history set error = \'{"type": "RuntimeError"}\' where id = 3',
    ),
    (
        "no run is left",
        "insert into run (id, tenant_id, queue, task, state, args) values (9, 'default', 'q', 't', 'queued', '{}')",
    ),
    (
        "nothing ran that nobody enqueued",
        "insert into run_history (id, tenant_id, queue, task, state, priority, args, attempt, failures, deaths,"
        " finished_at) values (9, 'default', 'q', 'u', 'succeeded', 0, '{}', 1, 0, 0, now())",
    ),
    (
        "no step ran again after its checkpoint was on disk",
        "insert into chaos.chaos_execution (id, run_id, step, attempt) values (gen_random_uuid(), 2, 'a', 3)",
    ),
    ("nothing that was taken from a frozen worker ended by its hand", "insert into chaos.chaos_zombie values (2, 3)"),
    (
        "no attempt ran a step twice",
        "insert into chaos.chaos_execution (id, run_id, step, attempt) values (gen_random_uuid(), 2, 'b', 2)",
    ),
    ("no checkpoint was written again", "update checkpoint set repeats = 1 where run_id = 2 and step = 'b'"),
    (
        "every step of a run has its checkpoint, and nothing else has",
        "delete from checkpoint where run_id = 1 and step = 'b'",
    ),
    (
        "a run's output is made of the outputs that were kept",
        "update checkpoint set output = '\"other\"' where run_id = 2 and step = 'a'",
    ),
    ("a run failed as often as it was told to", "update run_history set failures = 2 where id = 2"),
    ("a run failed as often as it was told to", "update run_history set failures = 1 where id = 4"),
    (
        "runs of an ordered session never overlapped",
        "update chaos.chaos_turn set finished_at = now() + interval '5.5 s' where run_id = 4 and attempt = 2",
    ),
    (
        "runs of an ordered session ran in the order in which they were enqueued",
        "update chaos.chaos_enqueued set place = 3 - place where run_id in (6, 7)",
    ),
    ("a run of an ordered session that ended had its turn", "delete from chaos.chaos_turn where run_id = 7"),
    (
        "a limited queue never ran more than it may, nor any tenant in it",
        "insert into chaos.chaos_sample (queue, running, of_one_tenant) values ('limited', 3, 1)",
    ),
    (
        "a limited queue never ran more than it may, nor any tenant in it",
        "insert into chaos.chaos_sample (queue, running, of_one_tenant) values ('limited', 2, 2)",
    ),
    ("every session is numbered 1, 2, 3 without a gap", "update event set seq = 6 where run_id = 7"),
    ("every session is numbered 1, 2, 3 without a gap", "update session set last_seq = 1 where id = 'empty'"),
    (
        "no event is there twice, and none is missing",
        "update event set type = 's', data = '1' where run_id = 1 and seq = 4",
    ),
]


@pytest.fixture
def kept(db: psycopg.Connection) -> psycopg.Connection:
    """A database in which every promise was kept."""
    db.execute(TABLES.encode())
    db.execute(KEPT.encode())
    return db


def test_kept_promises_are_found_kept(kept: psycopg.Connection) -> None:
    verdict = verify(kept, PROMISES)
    assert verdict.broken == []
    assert verdict.counts["runs rescued from a dead worker"] == 1
    assert verdict.counts["steps started again, not yet on disk"] == 2


@pytest.mark.parametrize(("promise", "damage"), BREAKS)
def test_a_broken_promise_is_named_and_no_other(kept: psycopg.Connection, promise: str, damage: str) -> None:
    kept.execute(damage.encode())
    verdict = verify(kept, PROMISES)
    assert [what for what, times in verdict.kept.items() if times] == [promise]
    assert len(verdict.broken) == 1


def test_every_check_has_been_seen_to_fail() -> None:
    assert {promise for promise, _ in BREAKS} == set(CHECKS)
