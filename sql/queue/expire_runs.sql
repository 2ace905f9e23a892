-- Ends runs whose deadline has passed: at once as failed where they are not running, else by asking their worker, which
-- knows the deadline itself and has most often stopped by then. p_limit at most; returns how many it ended or asked.
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
    v_asked integer;
begin
    perform assert_read_committed();
    v_late := lock_ordered_sessions(array(
        select r.id from run as r
        where r.deadline <= v_now and not (r.state = 'blocked' and r.on_failure = 'block') and not r.cancel_requested
        order by r.deadline
        limit p_limit), false);
    select array_agg(l.id) into v_idle
    from (select r.id from run as r
          where r.id = any (v_late) and r.state <> 'running' order by r.id for no key update skip locked) as l;
    if v_idle is not null then
        perform finish_runs(
            v_idle, array_fill('failed'::text, array[cardinality(v_idle)]), null,
            array_fill(jsonb_build_object('type', 'DeadlineExceeded', 'message', 'its deadline passed before it ended'),
                       array[cardinality(v_idle)]),
            p_notify);
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
    return query select coalesce(cardinality(v_idle), 0) + v_asked;
end
$$;
