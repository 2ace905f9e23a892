-- The outputs of the finished steps of these runs, in the order in which they finished.
create function read_checkpoints(p_runs bigint[])
returns table (run_id bigint, step text, output text, attempt integer, started_at timestamptz, finished_at timestamptz)
language sql stable
as $$
    select c.run_id, c.step, c.output::text, c.attempt, c.started_at, c.finished_at
    from checkpoint as c
    where c.run_id = any (p_runs)
    order by c.run_id, c.finished_at, c.step
$$;
