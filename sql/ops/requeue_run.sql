-- select * from ops.requeue_run(1234): brings a failed or cancelled run back; a workflow goes on from its last
-- finished step.
create function requeue_run(p_run bigint) returns table (run_id bigint, status text)
language sql
as $$
    select * from requeue_runs(null, array[p_run])
$$;
