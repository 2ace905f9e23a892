-- Locks the sessions to which these runs write, in order, and makes those that are missing.
-- Answers the runs whose session somebody else holds. (A run's session never changes, so reading it unlocked is safe.)
-- Session by session: joined as sets, hundreds of them were compared with one another.
create function lock_run_sessions(p_runs bigint[]) returns bigint[]
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_tenants text[];
    v_sessions text[];
    v_held text[];
    v_now timestamptz := engine_now();
begin
    select array_agg(w.tenant_id order by w.tenant_id, w.session_id), array_agg(w.session_id order by w.tenant_id, w.session_id)
    into v_tenants, v_sessions
    from (select distinct r.tenant_id, session_of_run(r.id, r.session_id) as session_id
          from unnest(p_runs) as i(id)
          join run as r on r.id = i.id) as w;

    insert into session (tenant_id, id, first_at, last_at, created_at)
    select w.tenant_id, w.session_id, v_now, v_now, v_now
    from unnest(v_tenants, v_sessions) with ordinality as w(tenant_id, session_id, ord)
    where not exists (select from session as s where s.tenant_id = w.tenant_id and s.id = w.session_id)
    order by w.ord
    on conflict do nothing;

    select array_agg(l.tenant_id || '/' || l.id) into v_held
    from (select * from unnest(v_tenants, v_sessions) with ordinality as w(tenant_id, session_id, ord) order by w.ord) as w
    cross join lateral (
        select s.tenant_id, s.id
        from session as s
        where s.tenant_id = w.tenant_id and s.id = w.session_id
        for no key update skip locked
    ) as l;
    if cardinality(v_held) = cardinality(v_sessions) then
        return '{}';
    end if;
    return array(
        select r.id
        from unnest(p_runs) as i(id)
        join run as r on r.id = i.id
        where r.tenant_id || '/' || session_of_run(r.id, r.session_id) <> all (coalesce(v_held, '{}')));
end
$$;
