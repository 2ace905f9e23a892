-- Inserts those of these lanes that are not there. Gives up (lock_not_available) on one that somebody else is just making
-- or removing, rather than wait for that transaction's end.
-- A lane that begins, begins level with the least active one: what its tenant did not use earlier is not owed to it.
create function insert_lanes(p_queues text[], p_tenants text[], p_tasks text[], p_twin integer) returns void
language sql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set lock_timeout = '5ms'
as $$
    insert into lane (queue, tenant_id, task, twin, virtual_time)
    select w.q, w.t, w.k, p_twin, f.virtual_time
    from unnest(p_queues, p_tenants, p_tasks) as w(q, t, k)
    join (select d.q, least_virtual_time(d.q) as virtual_time from (select distinct q from unnest(p_queues) as u(q)) as d) as f
        on f.q = w.q
    order by w.q, w.t, w.k
    on conflict do nothing
$$;
