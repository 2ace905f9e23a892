-- How far a session's slowest required consumer may be behind before its producers have to wait; null: any distance.
create function set_event_window(p_tenant text, p_session text, p_window bigint) returns table (event_window bigint)
language plpgsql
as $$
begin
    if p_window < 1 then
        raise exception 'a window of % events lets nothing through', p_window
            using errcode = 'HW016', hint = 'give a number from 1, or null for none';
    end if;
    perform lock_session(p_tenant, p_session);
    update session as s set event_window = p_window where s.tenant_id = p_tenant and s.id = p_session;
    return query select p_window;
end
$$;
