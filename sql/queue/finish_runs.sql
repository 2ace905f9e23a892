-- Moves live runs to history in their final state, and lets their ordered sessions go on: not past a failed run that says
-- that they wait for it. Their parents are woken where they waited for them, their own children cancelled.
-- The caller holds the locks of the runs and of their ordered sessions, has checked the attempts,
-- and has freed their slots, before any lane is made: see free_slots.
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
    v_heads bigint[];
    v_head_tenants text[];
    v_sessions text[];
    v_nos bigint[];
    v_parents bigint[];
    v_orphans bigint[];
begin
    with gone as (
        delete from run as r
        using unnest(p_runs, p_states, p_outputs, p_errors) as f(id, state, output, error)
        where r.id = f.id
        returning r.id, r.tenant_id, r.queue, r.task, f.state, r.priority, r.session_id, r.args, r.attempt,
                  r.failures + (f.state = 'failed')::integer as failures, r.deaths, r.deaths_alone, r.order_no,
                  r.on_failure, r.retry, r.worker_id, r.claimed_at, f.output, coalesce(f.error, r.error) as error,
                  r.parent_id, r.parent_step, r.traceparent
    ),
    moved as (
        insert into run_history (id, tenant_id, queue, task, state, priority, session_id, args, attempt, failures, deaths,
                                 deaths_alone, order_no, on_failure, retry, worker_id, claimed_at, finished_at, output,
                                 error, parent_id, parent_step, traceparent)
        select g.id, g.tenant_id, g.queue, g.task, g.state, g.priority, g.session_id, g.args, g.attempt, g.failures,
               g.deaths, g.deaths_alone, g.order_no, g.on_failure, g.retry, g.worker_id, g.claimed_at, v_now, g.output,
               g.error, g.parent_id, g.parent_step, g.traceparent
        from gone as g
    )
    select array_agg(distinct g.parent_id) into v_parents from gone as g where g.parent_id is not null;

    -- Most installations have none, and need not read again what was written.
    if exists (select from ordered_session) then
        select array_agg(h.id), array_agg(h.tenant_id), array_agg(h.session_id), array_agg(h.order_no)
        into v_heads, v_head_tenants, v_sessions, v_nos
        from unnest(p_runs) as i(id)
        join run_history as h on h.id = i.id and h.finished_at = v_now
        where h.order_no is not null and not (h.state = 'failed' and h.on_failure = 'block');
        if v_heads is not null then
            perform advance_sessions(v_heads, v_head_tenants, v_sessions, v_nos, p_notify);
        end if;
    end if;

    if v_parents is not null then
        perform wake_waiting(v_parents);
    end if;
    if exists (select from run where parent_id is not null) then
        v_orphans := array(select c.id from run as c where c.parent_id = any (p_runs));
        if v_orphans <> '{}' then
            perform cancel_orphans(v_orphans, p_notify);
        end if;
    end if;
end
$$;
