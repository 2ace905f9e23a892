-- select * from ops.set_weight('acme', 3): a tenant's share of each queue beside the others' shares; everybody begins at 1.
create function set_weight(p_tenant text, p_weight double precision)
returns table (tenant_id text, weight double precision)
language sql
as $$
    select id, weight from set_tenant_weight(p_tenant, p_weight)
$$;
