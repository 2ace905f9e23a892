"""At depth, every hot statement goes through its index: the plans are those of the real functions, by auto_explain."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from howdah.sql.pool import Connection
from howdah.sql.queue import calls
from howdah.sql.queue.calls import NewRun
from howdah.sql.stream.calls import NewEvent, append_events, read_emitted, read_events, read_sessions
from howdah.sql.workflow.calls import NewSignal, RunItem, read_checkpoints, send_signals, spawn_children
from tests.sql.engine import checkpoint, connect, event, new_worker, outcome, rows, value, write

# What a claim meets in a bad hour: 100,000 queued runs of 1,000 tenants, beside yesterday's remains.
DEPTH = """
    insert into tenant select 't' || n, n from generate_series(1, 1000) as n;
    insert into queue (name) values ('default');
    insert into run (id, tenant_id, queue, task, state, args)
        select next_run_id(), 't' || n % 1000 + 1, 'default', 't', 'queued', '{}' from generate_series(1, 100000) as n;
    insert into run (id, tenant_id, queue, task, state, args, run_at)
        select next_run_id(), 't1', 'default', 't', 'scheduled', '{}', now() + n * interval '1 minute'
        from generate_series(1, 2000) as n;
    insert into lane select 'default', id, 't', 0, random() from tenant where id like 't%';
    insert into run_history (id, tenant_id, queue, task, state, priority, args, attempt, failures, deaths, worker_id,
                             finished_at)
        select next_run_id(), 't1', 'default', 't', 'failed', 0, '{}', 1, 1, 0, 1,
               clock_timestamp() + interval '1 minute'
        from generate_series(1, 5000) as n;
    insert into checkpoint
        select next_run_id(), 's', 't1', 1, '1', now(), now() from generate_series(1, 5000) as n;
    insert into session (tenant_id, id, last_seq) select 't1', 'case-' || n, 10 from generate_series(1, 1000) as n;
    insert into event (tenant_id, session_id, seq, type, data, key, created_at)
        select 't1', 'case-' || s, n, 'noted', '{}', n::text, now()
        from generate_series(1, 1000) as s, generate_series(1, 10) as n;
    insert into idempotency_key
        select 't1', n::text, '', '', n, now(), now() + interval '1 day' from generate_series(1, 5000) as n;
    analyze;
"""

# A scan that gave or threw away rows; those of empty partitions, often not even executed, cost nothing.
_READS_A_TABLE = re.compile(
    r"Seq Scan on (run|run_history\w*|checkpoint\w*|session|event\w*|idempotency_key|lane)\b"
    r"([^\n]*actual rows=(?!0(\.00)? )|[^\n]*actual[^\n]*\n[^\n]*Filter:[^\n]*\n\s*Rows Removed)"
)


class Plans(list[str]):
    """What auto_explain tells this connection."""

    def hear(self, notice: psycopg.errors.Diagnostic) -> None:
        self.append(notice.message_primary or "")

    def text(self) -> str:
        return "\n".join(self)

    def rows_read(self, index: str) -> float:
        """Rows that scans of this index gave, or threw away after reading them."""
        assert index in self.text(), f"nothing went by {index}"
        scans = re.findall(
            rf"(?:using|Scan on) {index}\b[^\n]*actual rows=([\d.]+) loops=(\d+)"
            r"(?:(?:\n(?![^\n]*->)[^\n]*)*?Rows Removed by Filter: (\d+))?",
            self.text(),
        )
        return sum((float(given) + float(removed or 0)) * int(loops) for given, loops, removed in scans)

    def assert_no_scan_of_a_whole_table(self) -> None:
        assert self, "auto_explain told nothing"
        for plan in self:
            assert not _READS_A_TABLE.search(plan), plan


@pytest.fixture
async def deep(conninfo: str) -> AsyncIterator[Connection]:
    async with await connect(conninfo) as opened:
        await opened.execute(DEPTH.encode())
        await opened.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
            " set auto_explain.log_level = notice; set auto_explain.log_analyze = on; set auto_explain.log_timing = off"
        )
        yield opened


@pytest.fixture
def plans(deep: Connection) -> Plans:
    heard = Plans()
    deep.add_notice_handler(heard.hear)
    return heard


async def test_a_claim_reads_lanes_and_heads_by_their_indexes_and_little_more_than_it_takes(
    deep: Connection, plans: Plans
) -> None:
    worker = await new_worker(deep)
    plans.clear()
    claimed = await calls.claim_runs(deep, worker, ["default"], 100, ["t"])
    assert len(claimed) == 100
    assert "using lane_claim_idx" in plans.text()
    assert "using run_ready_idx" in plans.text()
    plans.assert_no_scan_of_a_whole_table()
    of_heads = next(
        line for plan in plans for line in plan.splitlines() if "run_ready_idx" in line and "actual" in line
    )
    rows_a_lane = float(re.findall(r"rows=([\d.]+)", of_heads)[-1])
    assert rows_a_lane <= 2, of_heads

    await deep.execute("delete from run where tenant_id in ('t7', 't8')")
    plans.clear()
    assert await value(deep, "select remove_empty_lanes('default', '{t7,t8,t9}', '{t,t,t}', '{0,0,0}')") == 2
    assert "using lane_pkey" in plans.text()
    assert "using run_ready_idx" in plans.text()
    plans.assert_no_scan_of_a_whole_table()


async def test_a_flush_and_an_enqueue_write_by_their_indexes(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    claimed = await calls.claim_runs(deep, worker, ["default"], 200)
    plans.clear()
    items = [item for run in claimed for item in (checkpoint(run), event(run, key="k"), outcome(run))]
    assert set(await write(deep, *items)) == {"ok"}
    assert set(await write(deep, *items)) == {"ok"}, "the second way, of what is over, has plans of its own"
    batch = [NewRun("t1", "t", idempotency_key=f"new-{n}", unique_key=f"u-{n}") for n in range(100)]
    await calls.enqueue_runs(deep, batch)
    plans.assert_no_scan_of_a_whole_table()


async def test_due_runs_and_a_workers_runs_are_found_by_their_indexes(deep: Connection, plans: Plans) -> None:
    leaving, dead = await new_worker(deep), await new_worker(deep)
    for worker in (leaving, dead):
        await calls.claim_runs(deep, worker, ["default"], 100)
    plans.clear()
    await calls.heartbeat(deep, leaving)
    await calls.unregister_worker(deep, leaving)
    await deep.execute("set howdah.now = '2100-01-01'")
    await calls.rescue_runs(deep, timedelta(seconds=1))
    woken, _ = await calls.wake_due_runs(deep)
    assert woken == 1000
    assert "using run_running_idx" in plans.text()
    assert "using run_due_idx" in plans.text()
    plans.assert_no_scan_of_a_whole_table()


async def test_reading_and_steering_single_runs_goes_by_their_indexes(deep: Connection, plans: Plans) -> None:
    failed = await value(deep, "select min(id) from run_history")
    queued = await value(deep, "select min(id) from run where state = 'queued'")
    plans.clear()
    assert await calls.requeue_runs(deep, None, [failed]) == {failed: "requeued"}
    assert await calls.cancel_runs(deep, None, [queued]) == {queued: "cancelled"}
    assert await calls.cancel_runs(deep, None, [queued]) == {queued: "finished"}
    assert await read_checkpoints(deep, [queued]) == []
    assert len(await read_events(deep, "t1", "case-3", 5)) == 5
    plans.assert_no_scan_of_a_whole_table()


async def test_a_page_of_a_tenants_runs_reads_no_other_tenants(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    await calls.claim_runs(deep, worker, ["default"], 500)
    await deep.execute("analyze run")
    plans.clear()
    page = await (
        await deep.execute("select id from ops.runs where tenant_id = 't5' order by id desc limit 10")
    ).fetchall()
    assert len(page) == 10
    # The tenant has some 100 live runs of 102,000, and 500 are running.
    assert plans.rows_read("run_tenant_idx") + plans.rows_read("run_running_idx") <= 600
    plans.assert_no_scan_of_a_whole_table()


async def test_the_next_of_a_hundred_thousand_blocked_runs_is_found_at_once(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    await calls.enqueue_runs(deep, [NewRun("t1", "ordered", session_id="long", order="skip")])
    await deep.execute(
        "insert into run (id, tenant_id, queue, task, state, args, session_id, order_no, on_failure)"
        " select next_run_id(), 't1', 'default', 'ordered', 'blocked', '{}', 'long', n, 'skip'"
        " from generate_series(2, 100000) as n;"
        " update ordered_session set last_no = 100000; analyze run"
    )
    plans.clear()
    for number in range(1, 4):
        (run,) = await calls.claim_runs(deep, worker, ["default"], 10, ["ordered"])
        assert await write(deep, outcome(run)) == ["ok"]
        assert await value(deep, "select order_no from run_history where id = %s", run.id) == number
    assert plans.rows_read("run_blocked_idx") <= 3
    plans.assert_no_scan_of_a_whole_table()


async def test_slots_are_counted_in_their_index_and_no_further_than_the_limit(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    await calls.claim_runs(deep, worker, ["default"], 5000)
    await deep.execute("""select set_queue_limits('default', '{"max_running": 100}')""")
    plans.clear()
    assert await calls.claim_runs(deep, worker, ["default"], 10) == []
    assert plans.rows_read("run_running_idx") <= 100
    await deep.execute("""select set_queue_limits('default', '{"max_running": null, "max_running_per_tenant": 2}')""")
    await deep.execute("update lane set virtual_time = 0")
    full = await value(deep, "select count(distinct tenant_id) from run where state = 'running'")
    plans.clear()
    assert len(await calls.claim_runs(deep, worker, ["default"], 10)) == 10
    assert plans.rows_read("run_running_idx") <= 2 * full
    plans.assert_no_scan_of_a_whole_table()


async def test_runs_of_tasks_that_a_worker_lacks_are_not_read(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    await calls.enqueue_runs(deep, [NewRun("t1", "rare", priority=-5)])
    plans.clear()
    assert [run.task for run in await calls.claim_runs(deep, worker, ["default"], 10, ["rare"])] == ["rare"]
    assert plans.rows_read("run_ready_idx") <= 1
    assert plans.rows_read("lane_claim_idx") <= 3
    plans.assert_no_scan_of_a_whole_table()


async def test_parked_lanes_are_not_read(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    await deep.execute("update lane set parked = true, virtual_time = 0 where tenant_id <> 't500'; analyze lane")
    plans.clear()
    assert {run.tenant_id for run in await calls.claim_runs(deep, worker, ["default"], 10)} == {"t500"}
    assert plans.rows_read("lane_claim_idx") <= 5
    assert plans.rows_read("run_ready_idx") <= 10
    plans.assert_no_scan_of_a_whole_table()


async def test_a_suspect_run_is_found_among_all_the_others(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    suspect = await value(
        deep,
        "update run set suspect = true, fresh = false where id = (select max(id) from run where state = 'queued')"
        " returning id",
    )
    await deep.execute("analyze run")
    plans.clear()
    assert (await calls.heartbeat(deep, worker)).suspects
    assert [run.id for run in await calls.claim_suspects(deep, worker, ["default"], ["t"])] == [suspect]
    assert not (await calls.heartbeat(deep, worker)).suspects
    assert plans.rows_read("run_suspect_idx") <= 4
    plans.assert_no_scan_of_a_whole_table()


async def test_only_runs_that_are_late_or_due_are_read(deep: Connection, plans: Plans) -> None:
    await deep.execute(
        "update run set deadline = now() + interval '1 day';"
        " update run set deadline = now() - interval '1 day' where id in (select id from run order by id limit 20);"
        " insert into run (id, tenant_id, queue, task, state, args, session_id, order_no, on_failure, deadline)"
        " select next_run_id(), 't1', 'default', 't', 'blocked', '{}', 's', n, 'block', now() - interval '2 days'"
        " from generate_series(1, 5000) as n; analyze run"
    )
    plans.clear()
    assert await value(deep, "select expired from expire_runs()") == 20
    assert plans.rows_read("run_deadline_idx") <= 20
    assert (await calls.wake_due_runs(deep))[0] == 0
    assert plans.rows_read("run_due_idx") <= 1
    plans.assert_no_scan_of_a_whole_table()


async def test_waiting_runs_are_read_only_by_what_wakes_them(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    await deep.execute(
        "insert into run (id, tenant_id, queue, task, state, args, session_id, run_at, awaits)"
        " select next_run_id(), 't1', 'default', 't', 'waiting', '{}', 'case-' || n % 1000 + 1,"
        "        case when n % 2 = 0 then now() + interval '1 day' end,"
        """        '[{"signal": "go", "after": 0}, {"events": 10, "types": ["answer"]}]'"""
        " from generate_series(1, 20000) as n; analyze run"
    )
    some = await rows(deep, "select id from run where state = 'waiting' order by id limit 5")
    plans.clear()
    assert await calls.claim_runs(deep, worker, ["elsewhere"], 10) == []
    assert (await calls.wake_due_runs(deep))[0] == 0
    assert plans.rows_read("run_due_idx") <= 1
    assert await send_signals(deep, None, [NewSignal(run_id, "go") for run_id in some]) == ["sent"] * 5
    assert plans.rows_read("run_pkey") <= 10 * len(some)
    many = await rows(deep, "select id from run where state = 'waiting' order by id limit 500")
    plans.clear()
    assert await send_signals(deep, None, [NewSignal(run_id, "go") for run_id in many]) == ["sent"] * 500
    compared = re.findall(r"Rows Removed by Join Filter: (\d+)", plans.text())
    assert sum(map(int, compared)) <= len(many), "each signal was compared with each run"
    plans.clear()
    await append_events(deep, [NewEvent("t1", "case-7", "answer", "{}")])
    assert plans.rows_read("run_listening_idx") <= 20
    plans.assert_no_scan_of_a_whole_table()
    assert await value(deep, "select count(*) from run where state = 'queued' and session_id = 'case-7'") == 20


async def test_a_batch_of_events_is_put_together_once(deep: Connection, plans: Plans) -> None:
    """Each event compared with each, 5,000 took 4 s."""
    batch = [NewEvent("t1", f"case-{n % 3}" if n % 10 else "gone", "noted", key=f"new-{n % 300}") for n in range(600)]
    appended = await append_events(deep, batch)
    assert {each.status for each in appended} == {"created", "existing", "unknown_session"}
    scans = re.findall(r"(?:CTE|Function|Subquery) Scan on [^\n]*loops=(\d+)", plans.text())
    assert set(scans) == {"1"}, plans.text()


async def test_a_runs_own_events_are_found_among_all_of_its_session(deep: Connection, plans: Plans) -> None:
    await deep.execute(
        "insert into event (tenant_id, session_id, seq, type, data, key, created_at)"
        " select 't1', 'case-1', 10 + n, 'noted', '{}', n || '/said', now() from generate_series(1, 20000) as n;"
        " update session set last_seq = 20010 where id = 'case-1'; analyze event"
    )
    worker = await new_worker(deep)
    await calls.enqueue_runs(deep, [NewRun("t1", "t", queue="talk", session_id="case-1")])
    (run,) = await calls.claim_runs(deep, worker, ["talk"], 1)
    await write(deep, event(run, key=f"{run.id}/a"), event(run, key=f"{run.id}/b"))
    plans.clear()
    assert await read_emitted(deep, [run.id]) == [(run.id, f"{run.id}/a"), (run.id, f"{run.id}/b")]
    index = f"event_{datetime.now(UTC):%Y%m%d}_tenant_id_session_id_key_idx"
    assert plans.rows_read(index) == 2, plans.text()
    plans.assert_no_scan_of_a_whole_table()


async def test_children_are_found_by_their_parent(deep: Connection, plans: Plans) -> None:
    worker = await new_worker(deep)
    await calls.enqueue_runs(deep, [NewRun("t1", "parent", queue="family")] * 50)
    parents = await calls.claim_runs(deep, worker, ["family"], 50)
    for parent in parents:
        await spawn_children(deep, parent.id, 1, "s#children-0", "s", [NewRun("t1", "child", queue="family")] * 20)
    rest = [RunItem(parent.id, 1, "outcome", "wait", '[{"children": "s"}]') for parent in parents]
    assert set(await write(deep, *rest)) == {"ok"}
    children = await calls.claim_runs(deep, worker, ["family"], 1000)
    await deep.execute("analyze run")
    plans.clear()
    assert set(await write(deep, *map(outcome, children))) == {"ok"}
    assert len(await calls.claim_runs(deep, worker, ["family"], 100)) == 50
    assert plans.rows_read("run_child_idx") <= 1000
    plans.assert_no_scan_of_a_whole_table()


async def test_events_are_read_and_keys_looked_for_in_the_days_that_can_hold_them(
    deep: Connection, plans: Plans
) -> None:
    """Thirty days of events: a reader who knows when it saw the last one opens one of them, whatever is prepared."""
    today = await value(deep, "select date_trunc('day', engine_now(), 'utc')")
    for number in range(1, 31):
        at = (today - timedelta(days=number)).isoformat()
        await deep.execute(f"set howdah.now = '{at}'; select prepare_partitions(0)".encode())
    await deep.execute("reset howdah.now")
    await deep.execute(
        "delete from event where session_id ~ '^case-[1-9]$';"
        " update session set last_seq = 300, last_at = now(), first_at = now() - interval '30 days'"
        " where tenant_id = 't1' and id ~ '^case-[1-9]$';"
        " insert into event (tenant_id, session_id, seq, type, data, created_at)"
        " select 't1', 'case-' || s, 10 * d - 10 + n, 'noted', '{}', now() - (30 - d) * interval '1 day'"
        " from generate_series(1, 9) as s, generate_series(1, 30) as d, generate_series(1, 10) as n;"
        " analyze"
    )
    seen_at = await value(
        deep, "select created_at from event where session_id = 'case-3' and seq = 295 order by 1 desc limit 1"
    )
    opened = re.compile(r" on (event_\w+)[^\n]*\(actual")

    plans.clear()
    for _ in range(8):  # past the calls whose plans are not kept
        (news,) = await read_sessions(deep, [("t1", "case-3", 295)], 100, [seen_at])
    assert news is not None
    assert [e.seq for e in news.events] == [296, 297, 298, 299, 300]
    assert set(opened.findall(plans.text())) == {f"event_{today:%Y%m%d}"}
    plans.assert_no_scan_of_a_whole_table()

    plans.clear()
    (news,) = await read_sessions(deep, [("t1", "case-3", 0)], 500)
    assert news is not None
    assert len(news.events) == 300
    plans.assert_no_scan_of_a_whole_table()

    plans.clear()
    places = [("t1", f"case-{n}", 10) for n in range(10, 500)]
    assert all(each is not None and not each.events for each in await read_sessions(deep, places))
    assert not opened.findall(plans.text()), "nothing is new: no day is opened"

    plans.clear()
    await append_events(deep, [NewEvent("t1", "case-77", "noted", key="3"), NewEvent("t1", "case-77", "noted")])
    looked = set(opened.findall(plans.text()))
    assert looked <= {f"event_{today:%Y%m%d}"}, "the session began today"
    assert "Materialize" not in plans.text(), "a look into the index for each key, not all of a day"
    plans.assert_no_scan_of_a_whole_table()
