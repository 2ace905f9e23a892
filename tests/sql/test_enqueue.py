"""What an enqueue promises: order, one run a key, and a bad item that fails alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from howdah.sql.errors import WrongIsolation, from_psycopg
from howdah.sql.pool import Connection
from howdah.sql.queue.calls import NewRun, TaskEntry, enqueue_runs, register_tasks, wake_due_runs
from tests.sql.engine import claim, connect, enqueue, rows, running, states, until_blocked, value


async def test_ids_grow_in_the_order_of_the_batch(connection: Connection) -> None:
    names = [f"task-{number}" for number in range(200)]
    enqueued = await enqueue_runs(connection, [NewRun("default", name) for name in names])
    by_id = await rows(connection, "select task from run order by id")
    assert by_id == names
    assert [run.run_id for run in enqueued] == await rows(connection, "select id from run order by id")


async def test_a_later_batch_has_greater_ids(connection: Connection) -> None:
    first, second = await enqueue(connection, 70), await enqueue(connection, 70)
    assert max(first) < min(second)


async def test_an_id_tells_when_its_run_was_enqueued(connection: Connection) -> None:
    (run_id,) = await enqueue(connection)
    told = await value(connection, "select run_created_at(%s)", run_id)
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)


async def test_the_same_key_and_body_is_the_same_run(connection: Connection) -> None:
    sent = NewRun("default", "t", '{"a": 1, "b": 2}', idempotency_key="k")
    again = NewRun("default", "t", '{"b":2,"a":1}', idempotency_key="k")
    (first,), (second,) = await enqueue_runs(connection, [sent]), await enqueue_runs(connection, [again])
    assert (first.status, second.status) == ("created", "existing")
    assert first.run_id == second.run_id
    assert await value(connection, "select count(*) from run") == 1


async def test_a_key_stands_for_a_version_however_that_was_named(connection: Connection) -> None:
    async def register(name: str) -> None:
        await connection.execute("select register_tasks(array[%s], '{workflow}', '{q}', '{\"{}\"}', '{\"\"}')", [name])

    async def send(name: str, key: str) -> tuple[int | None, str, str]:
        (answer,) = await enqueue_runs(connection, [NewRun("default", name, idempotency_key=key)])
        return answer.run_id, answer.status, answer.task

    await register("w")
    first, *_ = await send("w@1", "one")
    assert await send("w", "one") == (first, "existing", "w")
    assert (await send("w", "two"))[1:] == ("created", "w")
    await register("w@2")
    assert await send("w", "one") == (first, "existing", "w"), "the same request again, after a deploy"
    assert await send("w@1", "one") == (first, "existing", "w")
    assert (await send("w@2", "one"))[1] == "conflict"
    newest, *_ = await send("w", "three")
    assert await send("w@2", "three") == (newest, "existing", "w@2")
    assert (await send("w@1", "three"))[1] == "conflict"
    assert await rows(connection, "select task from run order by id") == ["w", "w", "w@2"]


@pytest.mark.parametrize("other", [NewRun("default", "t", '{"a": 2}'), NewRun("default", "u", '{"a": 1}')])
async def test_a_key_with_another_body_or_task_is_a_conflict(connection: Connection, other: NewRun) -> None:
    await enqueue(connection, args='{"a": 1}', idempotency_key="k")
    (answer,) = await enqueue_runs(connection, [NewRun("default", other.task, other.args, idempotency_key="k")])
    assert (answer.run_id, answer.status) == (None, "conflict")
    assert await value(connection, "select count(*) from run") == 1


async def test_a_key_twice_in_one_batch_is_one_run(connection: Connection) -> None:
    batch = [NewRun("default", "t", args, idempotency_key="k") for args in ('{"a": 1}', '{"a": 1}', '{"a": 2}')]
    first, second, third = await enqueue_runs(connection, batch)
    assert (first.status, second.status, third.status) == ("created", "existing", "conflict")
    assert second.run_id == first.run_id
    assert await value(connection, "select count(*) from run") == 1


async def test_a_key_is_its_tenants_own(connection: Connection) -> None:
    await connection.execute("select * from create_tenant('acme')")
    batch = [NewRun(tenant, "t", idempotency_key="k") for tenant in ("default", "acme")]
    assert [run.status for run in await enqueue_runs(connection, batch)] == ["created", "created"]


async def test_a_key_is_kept_when_its_run_is_over(connection: Connection) -> None:
    (run_id,) = await enqueue(connection, idempotency_key="k")
    await connection.execute("select * from cancel_runs('default', %s)", [[run_id]])
    (again,) = await enqueue_runs(connection, [NewRun("default", "t", idempotency_key="k")])
    assert (again.run_id, again.status) == (run_id, "existing")


async def test_two_connections_racing_on_a_key_make_one_run(connection: Connection, conninfo: str) -> None:
    sent = [NewRun("default", "t", idempotency_key="k")]
    async with await connect(conninfo) as first, await connect(conninfo) as second:
        async with first.transaction():
            (winner,) = await enqueue_runs(first, sent)
            racing = asyncio.create_task(enqueue_runs(second, sent))
            await until_blocked(connection, second)
        (loser,) = await racing
    assert (winner.status, loser.status) == ("created", "existing")
    assert loser.run_id == winner.run_id
    assert len(await states(connection)) == 1


async def test_a_key_whose_first_transaction_rolled_back_is_free(connection: Connection, conninfo: str) -> None:
    sent = [NewRun("default", "t", idempotency_key="k")]
    async with await connect(conninfo) as first, await connect(conninfo) as second:
        async with first.transaction(force_rollback=True):
            await enqueue_runs(first, sent)
            racing = asyncio.create_task(enqueue_runs(second, sent))
            await until_blocked(connection, second)
        (winner,) = await racing
    assert winner.status == "created"
    assert [run.id for run in await claim(connection)] == [winner.run_id]


async def test_an_unknown_tenant_fails_alone(connection: Connection) -> None:
    batch = [NewRun(tenant, "t", idempotency_key="k") for tenant in ("default", "nobody")]
    known, unknown = await enqueue_runs(connection, batch)
    assert known.status == "created"
    assert (unknown.run_id, unknown.status) == (None, "unknown_tenant")
    assert await rows(connection, "select tenant_id from idempotency_key") == ["default"]


async def test_a_uniqueness_key_admits_one_queued_run(connection: Connection) -> None:
    batch = [NewRun("default", "t", unique_key="u", idempotency_key=f"k{number}") for number in range(2)]
    first, second = await enqueue_runs(connection, batch)
    assert (first.status, second.status, second.run_id) == ("created", "not_unique", None)
    (later,) = await enqueue_runs(connection, batch[1:])
    assert later.status == "not_unique", "a refused run must not leave its idempotency key behind"


async def test_the_same_request_twice_in_a_batch_that_is_not_unique_names_no_run(connection: Connection) -> None:
    await enqueue_runs(connection, [NewRun("default", "t", unique_key="u")])
    refused = await enqueue_runs(connection, [NewRun("default", "t", unique_key="u", idempotency_key="k")] * 2)
    assert [(run.status, run.run_id) for run in refused] == [("not_unique", None)] * 2


async def test_a_uniqueness_key_is_free_once_its_run_has_started(connection: Connection) -> None:
    await enqueue(connection, unique_key="u")
    await claim(connection)
    await enqueue(connection, unique_key="u")


async def test_a_run_for_later_is_scheduled_until_it_is_due(connection: Connection) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    await enqueue(connection, run_at=at)
    assert [state for _, state in await states(connection)] == ["scheduled"]
    assert await claim(connection) == []
    assert await wake_due_runs(connection) == (0, at)
    await connection.execute("select set_config('howdah.now', %s, false)", [(at + timedelta(seconds=1)).isoformat()])
    assert await wake_due_runs(connection) == (1, None)
    assert len(await claim(connection)) == 1


async def test_a_run_goes_to_its_tasks_queue_unless_told(connection: Connection) -> None:
    await register_tasks(connection, [TaskEntry("mail.send", "task", "mail", "{}", "")])
    await enqueue_runs(
        connection, [NewRun("default", "mail.send"), NewRun("default", "mail.send", queue="x"), NewRun("default", "y")]
    )
    assert await rows(connection, "select queue from run order by id") == ["mail", "x", "default"]


async def test_a_rolled_back_enqueue_leaves_nothing(connection: Connection) -> None:
    async with connection.transaction(force_rollback=True):
        await enqueue(connection, 3, idempotency_key=None, queue="fresh")
    for table in ("run", "lane", "queue", "idempotency_key"):
        assert await value(connection, f"select count(*) from {table}") == 0


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_another_isolation_than_read_committed_is_refused(connection: Connection, level: str) -> None:
    await connection.execute(f"set default_transaction_isolation = '{level}'".encode())
    with pytest.raises(psycopg.Error) as refused:
        await enqueue_runs(connection, [NewRun("default", "t")])
    error = from_psycopg(refused.value)
    assert isinstance(error, WrongIsolation)
    assert level in str(error)


async def test_arguments_that_are_no_object_are_refused(connection: Connection) -> None:
    for args in ("[1]", '"text"', "null", "3"):
        with pytest.raises(psycopg.errors.CheckViolation, match="run_args_check"):
            await enqueue_runs(connection, [NewRun("default", "t", args)])


async def test_one_run_by_hand_says_what_is_wrong(connection: Connection) -> None:
    await connection.execute("select * from enqueue_run('default', 't', p_key => 'k', p_unique => 'u')")
    for wrong, code in [
        ("p_tenant => 'nobody', p_task => 't'", "HW009"),
        ("p_tenant => 'default', p_task => 'other', p_key => 'k'", "HW003"),
        ("p_tenant => 'default', p_task => 't', p_unique => 'u'", "HW005"),
    ]:
        with pytest.raises(psycopg.Error) as refused:
            await connection.execute(f"select * from enqueue_run({wrong})".encode())
        assert refused.value.sqlstate == code


async def test_an_enqueue_by_hand_wakes_listeners_when_it_commits(connection: Connection, conninfo: str) -> None:
    async with await connect(conninfo) as listening:
        await listening.execute('listen "howdah.runs"')
        await connection.execute("select * from enqueue_run('default', 't', p_queue => 'mail')")
        heard = [n async for n in listening.notifies(timeout=10, stop_after=1)]
    assert [notification.payload for notification in heard] == ["mail"]


async def test_a_run_that_comes_back_never_collides_with_the_key_it_had(connection: Connection) -> None:
    (run,) = await running(connection, unique_key="u")
    await enqueue(connection, unique_key="u")
    await connection.execute("select * from unregister_worker((select worker_id from run where id = %s))", [run.id])
    assert [state for _, state in await states(connection)] == ["queued", "queued"]
