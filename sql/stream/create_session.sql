-- Opens a session. A session that exists is left as it is: created is then false.
create function create_session(p_tenant text, p_session text, p_window bigint default null) returns table (created boolean)
language plpgsql
as $$
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    insert into session (tenant_id, id, first_at, last_at, created_at, event_window)
    values (p_tenant, p_session, engine_now(), engine_now(), engine_now(), p_window)
    on conflict do nothing;
    return query select found;
end
$$;
