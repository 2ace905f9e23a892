-- Locks a session, and answers it. Unknown: HW006.
create function lock_session(p_tenant text, p_session text) returns session
language plpgsql
as $$
declare
    v_session session;
begin
    select * into v_session from session as s where s.tenant_id = p_tenant and s.id = p_session for no key update;
    if not found then
        raise exception 'session % is unknown', quote_literal(p_session)
            using errcode = 'HW006', hint = 'open it first: select * from create_session(...)';
    end if;
    return v_session;
end
$$;
