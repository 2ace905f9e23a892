-- Moves live runs to history in their final state, frees their slots, and lets their ordered sessions go on: not past
-- a failed run that says that they wait for it. The caller holds the locks of the runs and of their ordered sessions, and
-- has checked the attempts.
create function finish_runs(p_runs bigint[], p_states text[], p_outputs jsonb[], p_errors jsonb[],
                            p_notify boolean default true) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    -- At or after the millisecond in every id: lookups bound history by it, also where a clock stepped back.
    v_now timestamptz := greatest(engine_now(), (select run_created_at(max(i)) from unnest(p_runs) as i));
    v_queues text[];
    v_tenants text[];
    v_heads bigint[];
    v_head_tenants text[];
    v_sessions text[];
    v_nos bigint[];
begin
    with gone as (
        delete from run as r
        using unnest(p_runs, p_states, p_outputs, p_errors) as f(id, state, output, error)
        where r.id = f.id
        returning r.id, r.tenant_id, r.queue, r.task, f.state, r.priority, r.session_id, r.args, r.attempt,
                  r.failures + (f.state = 'failed')::integer as failures, r.deaths, r.deaths_alone, r.order_no,
                  r.on_failure, r.retry, r.worker_id, r.claimed_at, f.output, coalesce(f.error, r.error) as error
    )
    insert into run_history (id, tenant_id, queue, task, state, priority, session_id, args, attempt, failures, deaths,
                             deaths_alone, order_no, on_failure, retry, worker_id, claimed_at, finished_at, output, error)
    select g.id, g.tenant_id, g.queue, g.task, g.state, g.priority, g.session_id, g.args, g.attempt, g.failures,
           g.deaths, g.deaths_alone, g.order_no, g.on_failure, g.retry, g.worker_id, g.claimed_at, v_now, g.output, g.error
    from gone as g;

    -- Most installations have neither, and need not read again what was written.
    if exists (select from queue as q where q.max_running_per_tenant is not null) or exists (select from ordered_session)
    then
        select array_agg(h.queue) filter (where h.claimed_at is not null),
               array_agg(h.tenant_id) filter (where h.claimed_at is not null),
               array_agg(h.id) filter (where h.passes), array_agg(h.tenant_id) filter (where h.passes),
               array_agg(h.session_id) filter (where h.passes), array_agg(h.order_no) filter (where h.passes)
        into v_queues, v_tenants, v_heads, v_head_tenants, v_sessions, v_nos
        from (select h.*, h.order_no is not null and not (h.state = 'failed' and h.on_failure = 'block') as passes
              from unnest(p_runs) as i(id)
              join run_history as h on h.id = i.id and h.finished_at = v_now) as h;
        if v_queues is not null then
            perform free_slots(v_queues, v_tenants);
        end if;
        if v_heads is not null then
            perform advance_sessions(v_heads, v_head_tenants, v_sessions, v_nos, p_notify);
        end if;
    end if;
end
$$;
