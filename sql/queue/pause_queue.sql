-- Pauses a queue, or lets it go on: no run of it starts while it is paused; those that run go on to their end.
create function pause_queue(p_queue text, p_paused boolean default true) returns queue
language plpgsql
as $$
declare
    v_queue queue;
begin
    update queue as q set paused = p_paused where q.name = p_queue returning q.* into v_queue;
    if not found then
        raise exception 'queue % is unknown', quote_literal(p_queue)
            using errcode = 'HW021', hint = 'queues come with their first task, run or limit: select * from ops.queues';
    end if;
    if not p_paused then
        perform notify_queues(array[p_queue]);
    end if;
    return v_queue;
end
$$;
