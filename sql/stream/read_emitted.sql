-- The keys of the events that these runs have written to their session: an attempt that comes to one of them again need
-- not write it. A run's keys begin with its id, so this reads its own part of the index, however long the session is.
create function read_emitted(p_runs bigint[]) returns table (run_id bigint, key text)
language plpgsql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
-- Planned anew for each call, the many partitions would cost more than the reading.
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    return query
    -- First whether there is a session at all: most runs that come back have told nothing, and to look for that in each
    -- partition took a fifth of the server.
    with told as materialized (
        select r.id, s.tenant_id, s.id as session_id
        from unnest(p_runs) as i(id)
        join run as r on r.id = i.id
        join session as s on s.tenant_id = r.tenant_id and s.id = session_of_run(r.id, r.session_id)
    )
    select t.id, e.key
    from told as t
    join event as e on e.tenant_id = t.tenant_id and e.session_id = t.session_id
                       and e.key > t.id || '/' and e.key < t.id || '0'  -- which follows '/'
                       -- No day from before the run is opened; one more, as clocks differ.
                       and e.created_at >= run_created_at(t.id) - interval '1 day';
end
$$;
