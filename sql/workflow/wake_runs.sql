-- Queues these waiting runs, whose locks the caller holds, and tells the workers.
create function wake_runs(p_runs bigint[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with woken as (
        update run as r set state = 'queued', fresh = false, run_at = null, awaits = null
        where r.id = any (p_runs) and r.state = 'waiting'
        returning r.queue, r.tenant_id, r.task
    )
    select array_agg(w.queue), array_agg(w.tenant_id), array_agg(w.task) into v_queues, v_tenants, v_tasks from woken as w;
    -- Notified here, as only this place knows whom it woke: one notification a batch.
    perform offer_runs(v_queues, v_tenants, v_tasks, true);
end
$$;
