-- select * from ops.discard_run(1234): gives a failed run up; an ordered session that waited for it goes on.
create function discard_run(p_run bigint) returns table (run_id bigint, status text)
language sql
as $$
    select * from discard_runs(null, array[p_run])
$$;
