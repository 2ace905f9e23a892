-- Lets claims look at these (queue, tenant) lanes again. Wrongly done, the next claim parks them anew.
-- Locks first: a claim that is about to park such a lane has it locked, and its decision, made before what happened here,
-- must not come last.
create function unpark_lanes(p_queues text[], p_tenants text[]) returns void
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
    select array_agg(k.queue), array_agg(k.tenant_id), array_agg(k.task) into v_queues, v_tenants, v_tasks
    from (
        select l.queue, l.tenant_id, l.task
        from lane as l
        join unnest(p_queues, p_tenants) as i(q, t) on l.queue = i.q and l.tenant_id = i.t
        order by l.queue, l.tenant_id, l.task, l.twin
        for no key update of l
    ) as k;
    -- These only: one that came since is not locked, and waiting for it would break the order.
    if v_queues is not null then
        update lane as l
        set parked = false, virtual_time = greatest(l.virtual_time, least_virtual_time(l.queue))
        from unnest(v_queues, v_tenants, v_tasks) as i(q, t, k)
        where l.queue = i.q and l.tenant_id = i.t and l.task = i.k and l.parked;
    end if;
end
$$;
