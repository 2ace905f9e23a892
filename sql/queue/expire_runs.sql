-- Ends runs whose deadline has passed: at once as failed where their code has not begun, else by asking it to stop. A workflow
-- that no worker has just now is claimed once more, so that its code may tidy up, and has a minute to begin: see let_tidy_up.
-- Its worker knows the deadline, and ends it as failed. A running one's worker knows it as well, and has most often stopped
-- by then. p_limit at most; returns how many it ended or asked.
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
    v_begun bigint[];
    v_asked integer;
begin
    perform assert_read_committed();
    v_late := lock_ordered_sessions(array(
        select r.id from run as r
        where r.deadline <= v_now and not (r.state = 'blocked' and r.on_failure = 'block')
          and (not r.cancel_requested or r.state = 'queued' and r.run_at <= v_now)
        order by r.deadline
        limit p_limit), false);
    select array_agg(l.id), array_agg(l.id) filter (where not l.cancel_requested)
    into v_idle, v_begun
    -- Asked again, under the lock: one that its parent's end has asked to stop meanwhile has its minute as well.
    from (select r.id, r.cancel_requested from run as r
          where r.id = any (v_late) and r.state <> 'running'
            and (not r.cancel_requested or r.state = 'queued' and r.run_at <= v_now)
          order by r.id for no key update skip locked) as l;
    v_begun := runs_to_tidy_up(v_begun);
    v_idle := array(select i from unnest(v_idle) as i where i <> all (v_begun));
    if v_idle <> '{}' then
        perform end_late_runs(v_idle, p_notify);
    end if;
    if v_begun <> '{}' then
        perform let_tidy_up(v_begun);
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
    return query select cardinality(v_idle) + cardinality(v_begun) + v_asked;
end
$$;
