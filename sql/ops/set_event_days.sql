-- select * from ops.set_event_days('acme', 7): for how many days a tenant's events are kept; null: as long as others'.
create function set_event_days(p_tenant text, p_days integer) returns table (tenant_id text, event_days integer)
language sql
as $$
    select id, event_days from set_tenant_event_days(p_tenant, p_days)
$$;
