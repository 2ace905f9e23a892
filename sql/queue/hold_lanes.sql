-- Makes sure that each (queue, tenant) has a lane and that nobody removes it before this transaction ends.
-- A plain `do nothing` lost runs to a concurrent removal; `do update` would hide a tenant behind an open transaction:
-- so insert, then take a key share on what is there, and again if it went away in between.
create function hold_lanes(p_queues text[], p_tenants text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_wanted integer;
    v_held integer;
begin
    select count(*) into v_wanted
    from (select distinct q, t from unnest(p_queues, p_tenants) as w(q, t)) as w;
    loop
        insert into lane (queue, tenant_id, virtual_time)
        select w.q, w.t,
               coalesce((select min(l.virtual_time) from lane as l where l.queue = w.q), 0)
        from (select distinct q, t from unnest(p_queues, p_tenants) as w(q, t)) as w
        where not exists (select from lane as l where l.queue = w.q and l.tenant_id = w.t)
        order by w.q, w.t
        on conflict do nothing;

        select count(*) into v_held
        from (
            select from lane as l
            join (select distinct q, t from unnest(p_queues, p_tenants) as w(q, t)) as w
                on l.queue = w.q and l.tenant_id = w.t
            order by l.queue, l.tenant_id
            for key share of l
        ) as held;
        exit when v_held = v_wanted;
    end loop;
end
$$;
