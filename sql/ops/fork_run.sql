-- select * from ops.fork_run(1234, 2): a new run that goes on after the first two finished steps of run 1234; with a third
-- argument, by another task or version.
create function fork_run(p_run bigint, p_steps integer, p_task text default null) returns table (run_id bigint)
language sql
as $$
    select * from fork_run(null, p_run, p_steps, p_task)
$$;
