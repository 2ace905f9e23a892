-- select * from ops.pause_tenant('acme'): no run of it starts until it is resumed, in any queue.
create function pause_tenant(p_tenant text) returns table (tenant_id text, paused boolean)
language sql
as $$
    select id, paused from pause_tenant(p_tenant, true)
$$;
