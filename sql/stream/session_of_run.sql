-- Where a run's events go: its own session, or one that is its alone.
create function session_of_run(p_run bigint, p_session text) returns text
language sql immutable parallel safe
as $$
    select coalesce(p_session, 'run:' || p_run)
$$;
