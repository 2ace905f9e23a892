-- select * from ops.pause_task(…): no run of it starts until it is resumed, of any tenant.
create function pause_task(p_task text) returns table (task text, paused boolean)
language sql
as $$
    select name, paused from pause_task(p_task, true)
$$;
