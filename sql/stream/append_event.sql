-- One event, for psql and for other languages; it waits for the session and raises what is wrong.
-- select * from append_event('acme', 'case-7', 'note.added', '{"text": "called back"}');
create function append_event(
    p_tenant text, p_session text, p_type text, p_data jsonb default '{}', p_key text default null,
    p_notify boolean default true, p_source text default null, p_subject text default null, p_traceparent text default null
) returns table (seq bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_seq bigint;
    v_status text;
begin
    select a.seq, a.status into v_seq, v_status
    from append_events(array[p_tenant], array[p_session], array[p_type], array[p_data::text], array[p_key],
                       true, p_notify, array[p_source], array[p_subject], array[p_traceparent]) as a;
    case v_status
        when 'unknown_session' then
            raise exception 'session % is unknown', quote_literal(p_session)
                using errcode = 'HW006', hint = 'open it first: select * from create_session(...)';
        when 'closed' then
            raise exception 'session % is closed', quote_literal(p_session) using errcode = 'HW007';
        when 'full' then
            perform raise_session_full(p_tenant, p_session);
        else
            return query select v_seq, v_status;
    end case;
end
$$;
