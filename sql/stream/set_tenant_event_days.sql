-- For how many days a tenant's events are kept; null: as long as the installation keeps them. See cut_sessions.
create function set_tenant_event_days(p_tenant text, p_days integer) returns tenant
language plpgsql
as $$
declare
    v_tenant tenant;
begin
    if p_days not between 1 and 36500 then
        raise exception 'events cannot be kept for % days', p_days
            using errcode = 'HW016', hint = 'give a number from 1 to 36500, or null';
    end if;
    update tenant as t set event_days = p_days where t.id = p_tenant returning t.* into v_tenant;
    if not found then
        raise exception 'tenant % is unknown', quote_literal(p_tenant)
            using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
    end if;
    return v_tenant;
end
$$;
