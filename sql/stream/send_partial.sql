-- A part of an event to come, for those who read the session now: live only, nothing is stored. Who comes later gets
-- the event itself. It travels in a notification's payload, which must stay below 8,000 bytes: split what is longer.
-- Equal ones within one transaction are heard once, as of any notification.
-- A run's own names it and its attempt: once that is over, it is refused (HW001).
-- select send_partial('acme', 'case-7', 'answer', '{"offset": 0, "text": "Good mor"}');
create function send_partial(p_tenant text, p_session text, p_type text, p_data jsonb default '{}', p_run bigint default null,
                             p_attempt integer default null) returns void
language plpgsql
as $$
declare
    v_state text;
    v_payload text;
begin
    if p_type is null or length(p_type) not between 1 and 200 then
        raise exception 'partial type % cannot be used', coalesce(quote_literal(p_type), 'null')
            using errcode = 'HW016', hint = 'give it 1 to 200 characters';
    end if;
    select s.state into v_state from session as s where s.tenant_id = p_tenant and s.id = p_session;
    -- A run's own session has no row before the run's first event. As numeric first: 19 digits may be too large a number.
    if v_state is null and p_session ~ '^run:[0-9]{1,19}$' then
        select 'open' into v_state from run
        where id = least(substr(p_session, 5)::numeric, 9223372036854775807)::bigint and tenant_id = p_tenant;
    end if;
    if v_state is null then
        raise exception 'session % is unknown', quote_literal(p_session)
            using errcode = 'HW006', hint = 'open it first: select * from create_session(...)';
    elsif v_state = 'closed' then
        raise exception 'session % is closed', quote_literal(p_session) using errcode = 'HW007';
    end if;
    if p_run is not null
       and not exists (select from run where id = p_run and attempt = p_attempt and state = 'running') then
        raise exception 'attempt % of run % is over', coalesce(p_attempt::text, 'null'), p_run
            using errcode = 'HW001', hint = 'stop: another attempt has the run, or it has ended';
    end if;
    v_payload := format('%s/%s %s', p_tenant, p_session,
                        jsonb_build_object('type', p_type, 'data', coalesce(p_data, 'null')));
    if octet_length(v_payload) > 7999 then
        raise exception 'a partial of % bytes is too large, the limit is 7999', octet_length(v_payload)
            using errcode = 'HW015', hint = 'send it in several';
    end if;
    perform pg_notify(current_schema() || '.partials', v_payload);
end
$$;
