-- Wakes the runs that wait for events of these sessions, whose locks the caller holds.
create function wake_listeners(p_tenants text[], p_sessions text[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_runs bigint[] := array(
        select r.id
        from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
        join run as r on r.tenant_id = i.tenant and r.session_id = i.session and r.state = 'waiting'
                            and r.session_id is not null);
begin
    if v_runs <> '{}' then
        perform wake_waiting(v_runs);
    end if;
end
$$;
