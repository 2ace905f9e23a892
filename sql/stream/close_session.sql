-- Ends a session: nothing more can be appended, and readers who have read it all are told that it is finished.
create function close_session(p_tenant text, p_session text, p_notify boolean default true)
returns table (last_seq bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_last bigint;
begin
    update session as s
    set state = 'closed', closed_at = coalesce(s.closed_at, engine_now()),
        first_at = least(s.first_at, s.closed_at, engine_now())
    where s.tenant_id = p_tenant and s.id = p_session
    returning s.last_seq into v_last;
    if v_last is null then
        raise exception 'session % is unknown', quote_literal(p_session) using errcode = 'HW006';
    end if;
    if p_notify then
        perform notify_sessions(array[p_tenant], array[p_session]);
    end if;
    return query select v_last;
end
$$;
