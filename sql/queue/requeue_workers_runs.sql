-- Takes the running runs away from these workers and queues them again, p_limit at most, from their last checkpoint.
-- Returns how many.
create function requeue_workers_runs(p_workers bigint[], p_limit integer, p_notify boolean) returns integer
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_runs bigint[];
    v_queues text[];
    v_tenants text[];
begin
    with lost as (
        select r.id from run as r
        where r.worker_id = any (p_workers) and r.state = 'running'
        order by r.id
        limit p_limit
        for no key update skip locked
    ),
    requeued as (
        update run as r
        set state = 'queued', worker_id = null, claimed_at = null, deaths = r.deaths + 1
        from lost as l where r.id = l.id
        returning r.id, r.queue, r.tenant_id
    )
    select array_agg(q.id), array_agg(q.queue), array_agg(q.tenant_id) into v_runs, v_queues, v_tenants from requeued as q;
    if v_queues is null then
        return 0;
    end if;
    perform hold_lanes(v_queues, v_tenants);
    perform end_cancelled_runs(v_runs);
    if p_notify then
        perform notify_queues(v_queues);
    end if;
    return cardinality(v_queues);
end
$$;
