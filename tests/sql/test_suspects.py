"""A run that kills its worker ends as failed; the runs that were beside it do not."""

from __future__ import annotations

from howdah.sql.pool import Connection
from howdah.sql.queue.calls import ClaimedRun, claim_suspects, heartbeat
from tests.sql.engine import claim, enqueue, new_worker, outcome, rows, value, write


async def die(connection: Connection, worker: int) -> None:
    await connection.execute("update worker set heartbeat_at = '2000-01-01' where id = %s", [worker])
    await connection.execute("select * from rescue_runs('15 s')")


async def test_neighbours_of_a_poison_run_survive_and_it_fails_with_the_reason(connection: Connection) -> None:
    ids = await enqueue(connection, 500)
    poison = ids[250]
    for _ in range(2):
        worker = await new_worker(connection)
        assert len(await claim(connection, 1000, worker=worker)) == 500
        await die(connection, worker)
    assert await claim(connection) == [], "those that died twice run apart only"
    deaths_in: list[int] = []
    while await value(connection, "select count(*) from run"):
        await connection.execute("delete from worker")
        worker = await new_worker(connection)
        assert (await heartbeat(connection, worker)).suspects
        runs = await claim_suspects(connection, worker, ["default"], ["t"])
        assert runs
        if poison in {run.id for run in runs}:
            deaths_in.append(len(runs))
            await die(connection, worker)
        else:
            await write(connection, *(outcome(run) for run in runs))
    assert deaths_in == [50, 5, 1, 1, 1]
    assert await rows(connection, "select id, error ->> 'type' from run_history where state <> 'succeeded'") == [
        (poison, "WorkerDied")
    ]
    assert await value(connection, "select count(*) from run_history") == 500


async def test_no_more_workers_stop_for_suspects_than_there_are(connection: Connection) -> None:
    await enqueue(connection)
    for _ in range(2):
        worker = await new_worker(connection)
        await claim(connection, worker=worker)
        await die(connection, worker)
    workers = [await new_worker(connection) for _ in range(5)]
    assert [(await heartbeat(connection, worker)).suspects for worker in workers].count(True) == 1


async def test_a_death_in_company_is_not_held_against_a_run(connection: Connection) -> None:
    await enqueue(connection, 2)
    worker = await new_worker(connection)
    await claim(connection, worker=worker)
    await die(connection, worker)
    assert await rows(connection, "select deaths, suspect from run") == [(1, False), (1, False)]
    assert len(await claim(connection)) == 2


async def test_a_suspect_that_comes_back_alive_is_one_no_longer(connection: Connection) -> None:
    await enqueue(connection)
    for _ in range(2):
        worker = await new_worker(connection)
        await claim(connection, worker=worker)
        await die(connection, worker)
    (run,) = await claim_suspects(connection, await new_worker(connection), ["default"], ["t"])
    await write(connection, outcome(run, "retry"))
    assert [again.id for again in await claim(connection)] == [run.id]


async def rest_and_wake(connection: Connection, run: ClaimedRun) -> None:
    assert await write(connection, outcome(run, "wait", '[{"signal": "go", "after": 0}]')) == ["ok"]
    await connection.execute("select from send_signals(null, array[%s::bigint], '{go}', '{1}')", [run.id])


async def test_an_agents_deaths_are_forgotten_as_it_comes_to_rest(connection: Connection) -> None:
    await enqueue(connection)
    for _ in range(5):
        worker = await new_worker(connection)
        await claim(connection, worker=worker)
        await die(connection, worker)
        (run,) = await claim(connection)
        # Each time for another signal than the last.
        await connection.execute("delete from signal")
        await rest_and_wake(connection, run)
    assert await rows(connection, "select state, deaths, deaths_alone, suspect from run") == [("queued", 0, 0, False)]


async def test_a_run_that_rests_and_then_kills_its_workers_fails_all_the_same(connection: Connection) -> None:
    await enqueue(connection)
    (run,) = await claim(connection)
    await rest_and_wake(connection, run)
    deaths = 0
    while await value(connection, "select count(*) from run"):
        worker = await new_worker(connection)
        assert await claim(connection, worker=worker) or await claim_suspects(connection, worker, ["default"], ["t"])
        await die(connection, worker)
        deaths += 1
        assert deaths <= 7, "two in company, then in companies of 50 and of 5, and three alone"
    assert await rows(connection, "select error ->> 'type' from run_history") == ["WorkerDied"]


async def test_limits_and_pauses_hold_for_suspects(connection: Connection) -> None:
    await enqueue(connection)
    for _ in range(2):
        worker = await new_worker(connection)
        await claim(connection, worker=worker)
        await die(connection, worker)
    worker = await new_worker(connection)
    for pause, resume in (
        ("select pause_queue('default')", "select pause_queue('default', false)"),
        ("select pause_tenant('default')", "select pause_tenant('default', false)"),
        (
            """select set_queue_limits('default', '{"max_running": 0}')""",
            """select set_queue_limits('default', '{"max_running": null}')""",
        ),
        (
            """select set_queue_limits('default', '{"max_running_per_tenant": 0}')""",
            """select set_queue_limits('default', '{"max_running_per_tenant": null}')""",
        ),
    ):
        await connection.execute(pause.encode())
        assert await claim_suspects(connection, worker, ["default"], ["t"]) == []
        await connection.execute(resume.encode())
    assert await claim_suspects(connection, worker, ["default"], ["other"]) == []
    assert len(await claim_suspects(connection, worker, ["default"], ["t"])) == 1
