-- A page of the outputs of these runs' finished steps, by run and step: after p_after_run and p_after_step, p_limit at most.
create function read_checkpoints(p_runs bigint[], p_after_run bigint default 0, p_after_step text default '',
                                 p_limit integer default 10000)
returns table (run_id bigint, step text, output text, attempt integer, started_at timestamptz, finished_at timestamptz,
               after text)
language sql stable
as $$
    select c.run_id, c.step, c.output::text, c.attempt, c.started_at, c.finished_at, c.after
    from checkpoint as c
    where c.run_id = any (p_runs) and (c.run_id, c.step) > (p_after_run, p_after_step)
    order by c.run_id, c.step
    limit p_limit
$$;
