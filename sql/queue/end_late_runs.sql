-- Ends these runs as failed: their deadline has passed. The caller holds their locks, and they are not running.
create function end_late_runs(p_runs bigint[], p_notify boolean) returns void
language sql
as $$
    select finish_runs(
        p_runs, array_fill('failed'::text, array[cardinality(p_runs)]), null,
        array_fill('{"type": "DeadlineExceeded", "message": "its deadline passed before it ended"}'::jsonb,
                   array[cardinality(p_runs)]),
        p_notify)
$$;
