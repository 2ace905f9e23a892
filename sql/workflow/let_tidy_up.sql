-- Asks these runs to stop, see runs_to_tidy_up: each is claimed once more, so that its code may tidy up, and then ends. The
-- caller holds their locks. One past its deadline has a minute to begin, which its run_at tells: without a worker it would
-- never end, and expire_runs ends it then.
create function let_tidy_up(p_runs bigint[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_now timestamptz := engine_now();
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with asked as (
        update run as r
        set state = 'queued', cancel_requested = true, fresh = false, awaits = null,
            run_at = case when r.deadline <= v_now then v_now + interval '1 minute' end
        where r.id = any (p_runs)
        returning r.queue, r.tenant_id, r.task
    )
    select array_agg(a.queue), array_agg(a.tenant_id), array_agg(a.task) into v_queues, v_tenants, v_tasks from asked as a;
    -- Notified here, as only this place knows whom it woke: one notification a batch.
    perform offer_runs(v_queues, v_tenants, v_tasks, true);
end
$$;
