-- Pauses a tenant in all queues, or lets it go on: no run of it starts while it is paused.
create function pause_tenant(p_tenant text, p_paused boolean default true) returns tenant
language plpgsql
as $$
declare
    v_tenant tenant;
    v_queues text[];
begin
    update tenant as t set paused = p_paused where t.id = p_tenant returning t.* into v_tenant;
    if not found then
        raise exception 'tenant % is unknown', quote_literal(p_tenant)
            using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
    end if;
    if not p_paused then
        -- With the tenant's row, so that no claim that saw it paused parks a lane behind this look: see park_lanes.
        v_queues := array(select distinct l.queue from lane as l where l.tenant_id = p_tenant);
        perform unpark_lanes(v_queues, array_fill(p_tenant, array[cardinality(v_queues)]));
        perform notify_queues(v_queues);
    end if;
    return v_tenant;
end
$$;
