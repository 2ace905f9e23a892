-- select * from ops.set_window('acme', 'case-7', 1000): how many events a session's slowest required consumer may be behind
-- before producers have to wait; null: any number.
create function set_window(p_tenant text, p_session text, p_window bigint)
returns table (session_id text, event_window bigint)
language sql
as $$
    select p_session, event_window from set_event_window(p_tenant, p_session, p_window)
$$;
