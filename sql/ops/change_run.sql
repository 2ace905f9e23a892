-- select * from ops.change_run(1234, p_priority => 10): another priority, queue or time for a run that has not started;
-- what is left out stays.
create function change_run(p_run bigint, p_priority integer default null, p_queue text default null,
                           p_run_at timestamptz default null)
returns table (run_id bigint, status text)
language sql
as $$
    select * from change_runs(null, array[p_run], p_priority, p_queue, p_run_at)
$$;
