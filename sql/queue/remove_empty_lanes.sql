-- Removes those of these tenants' lanes in one queue that have no queued run. Returns how many went.
-- Lanes that an enqueuing transaction holds are left to it. The second statement is the recheck: a run committed
-- before the lock was taken is visible to it.
create function remove_empty_lanes(p_queue text, p_tenants text[]) returns integer
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_tenants text[];
    v_removed integer;
begin
    select array_agg(e.tenant_id) into v_tenants
    from (
        select l.tenant_id
        from lane as l
        where l.queue = p_queue and l.tenant_id = any (p_tenants)
          and not exists (
              select from run as r
              where r.queue = l.queue and r.tenant_id = l.tenant_id and r.state = 'queued')
        order by l.tenant_id
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
