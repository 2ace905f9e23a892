-- Ends runs whose deadline has passed: at once as failed where no code of theirs is under way, else by asking it to stop. A
-- waiting workflow is woken, so that its code may tidy up; its worker knows the deadline, and ends it as failed. A running
-- one's worker knows it as well, and has most often stopped by then. p_limit at most; returns how many it ended or asked.
-- One that was woken has a minute to begin (its run_at says until when): without a worker it would never end.
-- A run for which its ordered session would wait fails when it has become the head: gone before, it would hold up nobody.
create function expire_runs(p_limit integer default 1000, p_notify boolean default true) returns table (expired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_late bigint[];
    v_idle bigint[];
    v_waiting bigint[];
    v_asked integer;
begin
    perform assert_read_committed();
    v_late := lock_ordered_sessions(array(
        select r.id from run as r
        where r.deadline <= v_now and not (r.state = 'blocked' and r.on_failure = 'block')
          and (not r.cancel_requested or r.state = 'queued' and r.run_at <= v_now)
        order by r.deadline
        limit p_limit), false);
    select array_agg(l.id) filter (where l.state <> 'waiting'), array_agg(l.id) filter (where l.state = 'waiting')
    into v_idle, v_waiting
    from (select r.id, r.state from run as r
          where r.id = any (v_late) and r.state <> 'running' order by r.id for no key update skip locked) as l;
    if v_idle is not null then
        perform end_late_runs(v_idle, p_notify);
    end if;
    if v_waiting is not null then
        perform wake_runs(v_waiting);
        update run as r set cancel_requested = true, run_at = v_now + interval '1 minute' where r.id = any (v_waiting);
    end if;
    -- Running ones end themselves; the request is for a worker that cannot tell the time.
    update run as r set cancel_requested = true
    where r.id in (select o.id from run as o
                   where o.id = any (v_late) and o.state = 'running' and o.deadline <= v_now - interval '5 s'
                   order by o.id for no key update skip locked);
    get diagnostics v_asked = row_count;
    if p_notify and v_asked > 0 then
        perform pg_notify(current_schema() || '.cancels', '');
    end if;
    return query select coalesce(cardinality(v_idle), 0) + coalesce(cardinality(v_waiting), 0) + v_asked;
end
$$;
