-- Told of each attempt that ends, by queue and tenant: where tenants have a limit, their lanes are looked at again.
-- Once a transaction, and before it makes a lane: that locks lanes, sorted, and a lane that is made is waited for.
create function free_slots(p_queues text[], p_tenants text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
begin
    select array_agg(i.q), array_agg(i.t) into v_queues, v_tenants
    from queue as q
    join (select distinct q, t from unnest(p_queues, p_tenants) as i(q, t)) as i on i.q = q.name
    where q.name = any (p_queues) and q.max_running_per_tenant is not null;
    if v_queues is not null then
        perform unpark_lanes(v_queues, v_tenants);
    end if;
end
$$;
