-- The millisecond a run was enqueued, read from its id.
create function run_created_at(p_id bigint) returns timestamptz
language sql immutable parallel safe
as $$
    select to_timestamp((p_id >> 20) / 1000.0)
$$;
