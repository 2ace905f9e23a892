-- Makes a tenant; one that exists is left as it is: created is then false.
create function create_tenant(p_tenant text, p_name text default null) returns table (created boolean)
language plpgsql
as $$
begin
    insert into tenant (id, name, created_at) values (p_tenant, coalesce(p_name, p_tenant), engine_now())
    on conflict do nothing;
    return query select found;
end
$$;
