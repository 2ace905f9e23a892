-- Moves live runs to history in their final state. The caller holds their row locks and has checked their attempts.
-- Nothing finishes before the millisecond in its id: lookups bound history by it, also where a clock stepped back.
create function finish_runs(p_runs bigint[], p_states text[], p_outputs jsonb[], p_errors jsonb[]) returns void
language sql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    with final as (
        select i.id, i.state, i.output, i.error
        from unnest(p_runs, p_states, p_outputs, p_errors) as i(id, state, output, error)
    ),
    gone as (
        delete from run as r using final as f where r.id = f.id
        returning r.id, r.tenant_id, r.queue, r.task, f.state, r.priority, r.session_id, r.args, r.attempt,
                  r.failures + (f.state = 'failed')::integer as failures, r.deaths, r.worker_id, r.claimed_at,
                  f.output, coalesce(f.error, r.error) as error
    )
    insert into run_history (id, tenant_id, queue, task, state, priority, session_id, args, attempt, failures, deaths,
                             worker_id, claimed_at, finished_at, output, error)
    select g.id, g.tenant_id, g.queue, g.task, g.state, g.priority, g.session_id, g.args, g.attempt, g.failures,
           g.deaths, g.worker_id, g.claimed_at, greatest(engine_now(), run_created_at(g.id)), g.output, g.error
    from gone as g;
$$;
