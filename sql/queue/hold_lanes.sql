-- Makes sure that each (queue, tenant, task) has a lane and that nobody removes it before this transaction ends.
-- A plain `do nothing` lost runs to a concurrent removal; `do update` would hide a tenant behind an open transaction:
-- so take a key share on what is there, insert what is not, and again if it went away in between.
-- A lane that an open transaction is just making or removing is not waited for: one slow caller would stall every batch
-- with a run of that tenant. A second lane does as well, its twin, named for this backend so that no other makes it.
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
    v_twin integer := 0;
begin
    select array_agg(w.q), array_agg(w.t), array_agg(w.k) into v_queues, v_tenants, v_tasks
    from (select distinct q, t, k from unnest(p_queues, p_tenants, p_tasks) as w(q, t, k)) as w;
    loop
        -- What is left is what could not be held.
        with held as materialized (
            select l.queue, l.tenant_id, l.task
            from unnest(v_queues, v_tenants, v_tasks) as w(q, t, k)
            join lane as l on l.queue = w.q and l.tenant_id = w.t and l.task = w.k
            order by l.queue, l.tenant_id, l.task, l.twin
            for key share of l skip locked
        )
        select array_agg(w.q), array_agg(w.t), array_agg(w.k) into v_queues, v_tenants, v_tasks
        from (select * from unnest(v_queues, v_tenants, v_tasks) as w(q, t, k)
              except
              select h.queue, h.tenant_id, h.task from held as h) as w;
        exit when v_queues is null;
        begin
            perform insert_lanes(v_queues, v_tenants, v_tasks, v_twin);
        exception when lock_not_available then
            v_twin := pg_backend_pid();
        end;
    end loop;
end
$$;
