-- Parks those of these lanes, which the caller has locked, whose tenant may not start a run of the queue: it is paused, or
-- as many of its runs are running as p_cap allows. Not where one of those is just ending: that transaction has looked for
-- lanes to unpark already, and may have been too early for this one. Its runs are locked, and so do not count here.
-- Nor where a tenant is just being resumed: that transaction, too, looked for lanes before this one parks any. It has the
-- tenant's row; one that comes later waits for the share of it that is taken here, and sees what was parked. Never waited
-- for here: lanes are locked already.
create function park_lanes(p_queue text, p_tenants text[], p_tasks text[], p_twins integer[], p_cap integer) returns void
language sql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    with tenants as materialized (
        select distinct i.tenant_id as id from unnest(p_tenants) as i(tenant_id)
    ),
    paused as materialized (
        select t.id from tenants as i join tenant as t on t.id = i.id
        where t.paused
        for share of t skip locked
    ),
    full_tenants as materialized (
        select p.id from paused as p
        union
        select t.id from tenants as t
        where p_cap is not null
          and (select count(*) from (select from run as r
                                     where r.queue = p_queue and r.tenant_id = t.id and r.state = 'running'
                                     limit p_cap) as slot) >= p_cap
          and (select count(*) from (select from run as r
                                     where r.queue = p_queue and r.tenant_id = t.id and r.state = 'running'
                                     limit p_cap
                                     for share skip locked) as slot) >= p_cap
    )
    update lane as l
    set parked = true
    from unnest(p_tenants, p_tasks, p_twins) as i(tenant_id, task, twin)
    join full_tenants as t on t.id = i.tenant_id
    where l.queue = p_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
$$;
