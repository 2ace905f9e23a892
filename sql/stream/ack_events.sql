-- A consumer has everything up to number p_seq. Less than it has said before changes nothing; more than there is, is refused.
-- One that nobody waits for needs no lock on the session: its number only grows.
--   freed  whether a session that was full has room now; then who waits for that is told, on <cell>.room
create function ack_events(p_tenant text, p_session text, p_name text, p_seq bigint, p_notify boolean default true)
returns table (acked_seq bigint, freed boolean)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_last bigint;
    v_acked bigint;
    v_before session;
    v_freed boolean := false;
begin
    perform assert_read_committed();
    select s.last_seq into v_last from session as s where s.tenant_id = p_tenant and s.id = p_session;
    if p_seq > v_last then
        raise exception 'session % has no event % yet', quote_literal(p_session), p_seq
            using errcode = 'HW024', hint = format('its last one is %s', v_last);
    end if;
    update consumer as c set acked_seq = greatest(c.acked_seq, p_seq), acked_at = engine_now()
    where c.tenant_id = p_tenant and c.session_id = p_session and c.name = p_name and not c.required
    returning c.acked_seq into v_acked;
    if not found then
        v_before := lock_session(p_tenant, p_session);
        update consumer as c set acked_seq = greatest(c.acked_seq, p_seq), acked_at = engine_now()
        where c.tenant_id = p_tenant and c.session_id = p_session and c.name = p_name
        returning c.acked_seq into v_acked;
        if not found then
            raise exception 'session % has no consumer %', quote_literal(p_session), quote_literal(p_name)
                using errcode = 'HW023', hint = 'name it first: select * from put_consumer(...)';
        end if;
        perform count_acked(p_tenant, p_session);
        select v_before.last_seq >= greatest(v_before.acked_seq, v_before.first_seq - 1) + v_before.event_window
               and s.acked_seq > v_before.acked_seq
        into v_freed
        from session as s where s.tenant_id = p_tenant and s.id = p_session;
        v_freed := coalesce(v_freed, false);
        if v_freed and p_notify then
            perform pg_notify(current_schema() || '.room', p_tenant || '/' || p_session);
        end if;
    end if;
    return query select v_acked, v_freed;
end
$$;
