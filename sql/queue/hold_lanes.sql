-- Makes sure that each (queue, tenant, task) has a lane and that nobody removes it before this transaction ends.
-- A plain `do nothing` lost runs to a concurrent removal; `do update` would hide a tenant behind an open transaction:
-- so insert, then take a key share on what is there, and again if it went away in between.
-- A lane that begins, begins level with the least active one: what its tenant did not use earlier is not owed to it.
create function hold_lanes(p_queues text[], p_tenants text[], p_tasks text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
    v_held integer;
begin
    select array_agg(w.q), array_agg(w.t), array_agg(w.k) into v_queues, v_tenants, v_tasks
    from (select distinct q, t, k from unnest(p_queues, p_tenants, p_tasks) as w(q, t, k)) as w;
    loop
        select count(*) into v_held
        from (
            select from lane as l
            join unnest(v_queues, v_tenants, v_tasks) as w(q, t, k)
                on l.queue = w.q and l.tenant_id = w.t and l.task = w.k
            order by l.queue, l.tenant_id, l.task
            for key share of l
        ) as held;
        exit when v_held = cardinality(v_queues);

        insert into lane (queue, tenant_id, task, virtual_time)
        select w.q, w.t, w.k, f.virtual_time
        from unnest(v_queues, v_tenants, v_tasks) as w(q, t, k)
        join (select d.q, least_virtual_time(d.q) as virtual_time
              from (select distinct q from unnest(v_queues) as u(q)) as d) as f on f.q = w.q
        where not exists (select from lane as l where l.queue = w.q and l.tenant_id = w.t and l.task = w.k)
        order by w.q, w.t, w.k
        on conflict do nothing;
    end loop;
end
$$;
