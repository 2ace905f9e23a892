-- One finished step.
create function read_checkpoint(p_run bigint, p_step text)
returns table (run_id bigint, step text, output text, attempt integer, started_at timestamptz, finished_at timestamptz,
               after text)
language sql stable
as $$
    select c.run_id, c.step, c.output::text, c.attempt, c.started_at, c.finished_at, c.after
    from checkpoint as c
    where c.run_id = p_run and c.step = p_step
$$;
