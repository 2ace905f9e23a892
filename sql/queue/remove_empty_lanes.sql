-- Removes those of these (tenant, task, twin) lanes in one queue that have no queued run. Returns how many went.
-- Lanes that an enqueuing transaction holds are left to it. The second statement is the recheck: a run committed
-- before the lock was taken is visible to it. What lane_has_runs says is written out: called for each lane, it cost more
-- than all the rest of a claim.
create function remove_empty_lanes(p_queue text, p_tenants text[], p_tasks text[], p_twins integer[]) returns integer
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_tenants text[];
    v_tasks text[];
    v_twins integer[];
    v_removed integer;
begin
    select array_agg(e.tenant_id), array_agg(e.task), array_agg(e.twin) into v_tenants, v_tasks, v_twins
    from (
        select l.tenant_id, l.task, l.twin
        from unnest(p_tenants, p_tasks, p_twins) as i(tenant_id, task, twin)
        join lane as l on l.queue = p_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
        where not exists (
                select from run as r
                where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
                  and r.state = 'queued' and r.fresh
                  and (-r.priority, r.id) > (coalesce(-l.floor_priority, -2147483648), coalesce(l.floor_id, 0)))
          and not exists (
                select from run as r
                where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
                  and r.state = 'queued' and not r.fresh and not r.suspect)
        order by l.tenant_id, l.task, l.twin
        for update of l skip locked
    ) as e;
    if v_tenants is null then
        return 0;
    end if;
    delete from lane as l
    using unnest(v_tenants, v_tasks, v_twins) as i(tenant_id, task, twin)
    where l.queue = p_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
      and not exists (
            select from run as r
            where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
              and r.state = 'queued' and r.fresh
              and (-r.priority, r.id) > (coalesce(-l.floor_priority, -2147483648), coalesce(l.floor_id, 0)))
      and not exists (
            select from run as r
            where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
              and r.state = 'queued' and r.fresh and -r.priority < -l.floor_priority)
      and not exists (
            select from run as r
            where r.queue = l.queue and r.tenant_id = l.tenant_id and r.task = l.task
              and r.state = 'queued' and not r.fresh and not r.suspect);
    get diagnostics v_removed = row_count;
    return v_removed;
end
$$;
