-- Appends a batch of events, one an array position, and answers in the same positions.
--   p_data   JSON as text, up to 256 KiB: an event is a small fact, not a document
--   p_keys   producer keys, unique in their session; null: none
--   p_wait   true: wait for sessions that others are writing to; false: answer busy, for callers who batch
--   p_sources, p_subjects, p_traceparents  of the CloudEvents; null: the session, none, none
-- status: created | existing (its key was seen: the first's number) | unknown_session | closed | busy |
--         full (a required consumer is too far behind: see session.event_window)
create function append_events(
    p_tenants text[],
    p_sessions text[],
    p_types text[],
    p_data text[],
    p_keys text[] default null,
    p_wait boolean default true,
    p_notify boolean default true,
    p_sources text[] default null,
    p_subjects text[] default null,
    p_traceparents text[] default null
) returns table (ord bigint, seq bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_status text[];
    v_open text[];
    v_closed text[];
    v_ords bigint[];
begin
    perform assert_read_committed();
    if p_wait then
        select array_agg(l.name) filter (where l.state = 'open'), array_agg(l.name) filter (where l.state <> 'open')
        into v_open, v_closed
        from (
            select s.tenant_id || '/' || s.id as name, s.state
            from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
            join session as s on s.tenant_id = i.tenant and s.id = i.session
            order by s.tenant_id, s.id
            for no key update of s
        ) as l;
    else
        select array_agg(l.name) filter (where l.state = 'open'), array_agg(l.name) filter (where l.state <> 'open')
        into v_open, v_closed
        from (
            select s.tenant_id || '/' || s.id as name, s.state
            from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as i
            join session as s on s.tenant_id = i.tenant and s.id = i.session
            order by s.tenant_id, s.id
            for no key update of s skip locked
        ) as l;
    end if;

    select array_agg(
               case when i.tenant || '/' || i.session = any (v_open) then 'created'
                    when i.tenant || '/' || i.session = any (v_closed) then 'closed'
                    when exists (select from session as s where s.tenant_id = i.tenant and s.id = i.session) then 'busy'
                    else 'unknown_session' end order by i.ord),
           array_agg(i.ord order by i.ord) filter (where i.tenant || '/' || i.session = any (v_open))
    into v_status, v_ords
    from unnest(p_tenants, p_sessions) with ordinality as i(tenant, session, ord);

    return query
    with numbered as materialized (
        select n.* from number_events(
            array(select p_tenants[o] from unnest(v_ords) as o), array(select p_sessions[o] from unnest(v_ords) as o),
            array(select p_types[o] from unnest(v_ords) as o), array(select p_data[o] from unnest(v_ords) as o),
            array(select p_keys[o] from unnest(v_ords) as o), array(select null::bigint from unnest(v_ords)),
            array(select p_sources[o] from unnest(v_ords) as o), array(select p_subjects[o] from unnest(v_ords) as o),
            array(select p_traceparents[o] from unnest(v_ords) as o)) as n
    )
    select i.ord, n.seq, coalesce(n.status, i.status)
    from unnest(v_status) with ordinality as i(status, ord)
    left join numbered as n on v_ords[n.ord] = i.ord
    order by i.ord;

    if p_notify and v_ords is not null then
        perform notify_sessions(array(select p_tenants[o] from unnest(v_ords) as o),
                                array(select p_sessions[o] from unnest(v_ords) as o));
    end if;
end
$$;
