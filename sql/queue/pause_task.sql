-- Pauses a task of all tenants, or lets it go on: no run of it starts while it is paused.
create function pause_task(p_task text, p_paused boolean default true) returns task
language plpgsql
as $$
declare
    v_task task;
begin
    update task as t set paused = p_paused where t.name = p_task returning t.* into v_task;
    if not found then
        raise exception 'task % is unknown', quote_literal(p_task)
            using errcode = 'HW014', hint = 'workers register their tasks as they start: select name from task';
    end if;
    if not p_paused then
        perform notify_queues(array(select distinct l.queue from lane as l where l.task = p_task));
    end if;
    return v_task;
end
$$;
