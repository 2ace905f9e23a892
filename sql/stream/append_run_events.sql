-- Events written by runs, in the same transaction as their checkpoints; they bear their run's trace. The caller holds the sessions' locks.
-- A run may write to a session that was closed meanwhile: its history must not lose what happened.
-- Answers the positions of those that their session's window has no room for.
create function append_run_events(
    p_runs bigint[], p_types text[], p_data text[], p_keys text[], p_notify boolean
) returns integer[]
language plpgsql
as $$
declare
    v_tenants text[];
    v_sessions text[];
    v_traceparents text[];
    v_full integer[];
begin
    if p_runs = '{}' then
        return '{}';
    end if;
    select array_agg(r.tenant_id order by i.ord), array_agg(session_of_run(r.id, r.session_id) order by i.ord),
           array_agg(r.traceparent order by i.ord)
    into v_tenants, v_sessions, v_traceparents
    from unnest(p_runs) with ordinality as i(run_id, ord)
    join run as r on r.id = i.run_id;
    select coalesce(array_agg(n.ord::integer), '{}') into v_full
    from number_events(v_tenants, v_sessions, p_types, p_data, p_keys, p_runs, p_traceparents => v_traceparents) as n
    where n.status = 'full';
    if p_notify then
        perform notify_sessions(v_tenants, v_sessions);
    end if;
    return v_full;
end
$$;
