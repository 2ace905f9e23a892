-- select * from ops.pause_queue('mail'): no run of it starts until it is resumed; those that run go on to their end.
create function pause_queue(p_queue text) returns table (queue text, paused boolean)
language sql
as $$
    select name, paused from pause_queue(p_queue, true)
$$;
