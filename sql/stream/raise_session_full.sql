-- Refuses an event for which a session's window has no room, and says who is behind.
create function raise_session_full(p_tenant text, p_session text) returns void
language plpgsql
as $$
declare
    v_consumer record;
begin
    select c.name, s.last_seq - greatest(c.acked_seq, s.first_seq - 1) as lag, s.event_window into v_consumer
    from session as s
    join consumer as c on c.tenant_id = s.tenant_id and c.session_id = s.id and c.required
    where s.tenant_id = p_tenant and s.id = p_session
    order by c.acked_seq, c.name
    limit 1;
    raise exception 'session % is full', quote_literal(p_session)
        using errcode = 'HW025',
              hint = format('consumer %s is %s events behind, of a window of %s: try again when it has acknowledged some,'
                            ' or: select * from delete_consumer(...)',
                            quote_literal(v_consumer.name), v_consumer.lag, v_consumer.event_window);
end
$$;
