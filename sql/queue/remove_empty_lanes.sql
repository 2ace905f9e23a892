-- Removes lanes of one queue that have no queued run; of those with the least virtual time, p_limit at most,
-- for these are what claims meet first. Returns how many went.
-- The second statement is the recheck: a run committed before the lock was taken is visible to it.
create function remove_empty_lanes(p_queue text, p_limit integer default 64) returns integer
language plpgsql
as $$
declare
    v_tenants text[];
    v_removed integer;
begin
    select array_agg(e.tenant_id) into v_tenants
    from (
        select l.tenant_id
        from lane as l
        where l.queue = p_queue
          and not exists (
              select from run as r
              where r.queue = l.queue and r.tenant_id = l.tenant_id and r.state = 'queued')
        order by l.virtual_time
        limit p_limit
        for update of l skip locked
    ) as e;
    if v_tenants is null then
        return 0;
    end if;
    delete from lane as l
    where l.queue = p_queue and l.tenant_id = any (v_tenants)
      and not exists (
          select from run as r
          where r.queue = l.queue and r.tenant_id = l.tenant_id and r.state = 'queued');
    get diagnostics v_removed = row_count;
    return v_removed;
end
$$;
