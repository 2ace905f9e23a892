-- select * from ops.resume_task(…): lets a paused task go on.
create function resume_task(p_task text) returns table (task text, paused boolean)
language sql
as $$
    select name, paused from pause_task(p_task, false)
$$;
