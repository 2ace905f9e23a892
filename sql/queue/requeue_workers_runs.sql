-- Takes the running runs away from these workers, which died, and queues them again from their last checkpoint, p_limit
-- at most. Returns how many.
-- Dying in company proves nothing: a deploy or a lost machine takes hundreds along. A run that dies a second time is
-- suspect: it next runs in a small company, then in a smaller one, then alone, and only deaths there count against it:
-- p_alone of them, and it has failed. Coming to rest takes all that back (flush). So a run that kills its worker ends, and none of the hundreds beside it does.
-- Ordered runs whose session is held by somebody else are left for the next call.
create function requeue_workers_runs(p_workers bigint[], p_limit integer, p_notify boolean, p_alone integer default 3)
returns integer
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    c_chance constant integer := 2;  -- deaths in company that may be somebody else's doing
    v_runs bigint[];
    v_poison bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    v_runs := lock_ordered_sessions(array(
        select r.id from run as r
        where r.worker_id = any (p_workers) and r.state = 'running'
        order by r.id
        limit p_limit), false);
    with lost as (
        select r.id from run as r
        where r.id = any (v_runs) and r.worker_id = any (p_workers) and r.claimed_at is not null
        order by r.id
        for no key update skip locked
    ),
    requeued as (
        update run as r
        set state = 'queued', fresh = false, worker_id = null, claimed_at = null,
            deaths = r.deaths + 1, deaths_alone = r.deaths_alone + (r.suspect and suspect_company(r.deaths) = 1)::integer,
            suspect = r.deaths + 1 >= c_chance
        from lost as l where r.id = l.id
        returning r.id, r.queue, r.tenant_id, r.task, r.deaths_alone >= p_alone as poison
    )
    select array_agg(q.id), array_agg(q.queue), array_agg(q.tenant_id), array_agg(q.task),
           array_agg(q.id) filter (where q.poison)
    into v_runs, v_queues, v_tenants, v_tasks, v_poison
    from requeued as q;
    if v_queues is null then
        return 0;
    end if;
    perform free_slots(v_queues, v_tenants);
    if v_poison is not null then
        perform finish_runs(
            v_poison, array_fill('failed'::text, array[cardinality(v_poison)]), null,
            array_fill(jsonb_build_object(
                'type', 'WorkerDied',
                'message', format('its worker died %s times while nothing else ran on it', p_alone)),
                array[cardinality(v_poison)]),
            p_notify);
    end if;
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    perform end_cancelled_runs(v_runs, false);
    return cardinality(v_queues);
end
$$;
