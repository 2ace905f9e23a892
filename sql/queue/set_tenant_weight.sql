-- Changes a tenant's share of each queue beside the other tenants' shares; 1 is where everybody begins.
create function set_tenant_weight(p_tenant text, p_weight double precision) returns tenant
language plpgsql
as $$
declare
    v_tenant tenant;
begin
    if p_weight is null or p_weight not between 0.001 and 1000 then
        raise exception 'weight % cannot be used', p_weight
            using errcode = 'HW016', hint = 'give a number from 0.001 to 1000';
    end if;
    update tenant as t set weight = p_weight where t.id = p_tenant returning t.* into v_tenant;
    if not found then
        raise exception 'tenant % is unknown', quote_literal(p_tenant)
            using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
    end if;
    return v_tenant;
end
$$;
