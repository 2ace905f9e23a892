-- select * from ops.resume_tenant(…): lets a paused tenant go on.
create function resume_tenant(p_tenant text) returns table (tenant_id text, paused boolean)
language sql
as $$
    select id, paused from pause_tenant(p_tenant, false)
$$;
