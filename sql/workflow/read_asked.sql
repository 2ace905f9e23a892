-- Those of these runs that somebody asked to stop: claimed only so that their code may tidy up.
create function read_asked(p_runs bigint[]) returns table (run_id bigint)
language sql stable
as $$
    select r.id from run as r where r.id = any (p_runs) and r.cancel_requested
$$;
