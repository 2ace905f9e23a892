-- Whether a session has an event after number p_after that is not of run p_but; p_types, a JSON array: of one of these types.
create function has_event(p_tenant text, p_session text, p_after bigint, p_types jsonb, p_but bigint) returns boolean
language plpgsql stable
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_session session;
begin
    select * into v_session from session as s where s.tenant_id = p_tenant and s.id = p_session and s.last_seq > p_after;
    return found and exists (
        select from event as e
        where e.tenant_id = p_tenant and e.session_id = p_session and e.seq > greatest(p_after, v_session.first_seq - 1)
          and e.created_at between v_session.first_at and v_session.last_at
          and e.run_id is distinct from p_but and (coalesce(p_types, 'null') = 'null' or p_types ? e.type));
end
$$;
