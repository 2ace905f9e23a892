-- Those of these runs that have no session, and have written events all the same: to one that is theirs alone.
create function read_watched(p_runs bigint[]) returns table (run_id bigint)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select r.id
    from unnest(p_runs) as i(id)
    join run as r on r.id = i.id
    join session as s on s.tenant_id = r.tenant_id and s.id = session_of_run(r.id, null)
    where r.session_id is null
$$;
