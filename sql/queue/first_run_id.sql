-- The least id that a run enqueued on this day (UTC) can have: a partition's bound.
create function first_run_id(p_day date) returns bigint
language sql immutable parallel safe
as $$
    select (extract(epoch from p_day::timestamp)::bigint * 1000) << 20
$$;
