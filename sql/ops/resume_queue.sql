-- select * from ops.resume_queue(…): lets a paused queue go on.
create function resume_queue(p_queue text) returns table (queue text, paused boolean)
language sql
as $$
    select name, paused from pause_queue(p_queue, false)
$$;
