-- How many runs of a queue may start now, p_wanted at most, and how many one tenant may have running (null: any number).
-- A queue with limits is locked until the caller's transaction ends, so that nobody else starts runs of it meanwhile; its
-- running rows are then counted in a statement of their own, which sees what was committed before the lock. A slot is
-- a running row: nothing can leak.
--   p_wait  whether to wait for another claim of the queue. A caller who holds locks of an earlier queue does not.
--   held    whether the queue is locked now
create function lock_queue(p_queue text, p_wanted integer, p_wait boolean default true,
                           out room integer, out per_tenant integer, out held boolean)
language plpgsql
set enable_seqscan = off
as $$
declare
    v_queue queue;
begin
    held := false;
    select q.* into v_queue from queue as q where q.name = p_queue;
    if v_queue.name is null or v_queue.paused then
        room := 0;
        return;
    end if;
    room := p_wanted;
    if coalesce(v_queue.max_running, v_queue.max_running_per_tenant, v_queue.starts_per_period) is null then
        return;
    end if;
    if p_wait then
        select q.* into v_queue from queue as q where q.name = p_queue for no key update;
    else
        select q.* into v_queue from queue as q where q.name = p_queue for no key update skip locked;
    end if;
    held := v_queue.name is not null;
    if v_queue.name is null or v_queue.paused then
        room := 0;
        return;
    end if;
    per_tenant := v_queue.max_running_per_tenant;
    if v_queue.max_running is not null then
        room := least(room, v_queue.max_running - (
            select count(*)
            from (select from run as r where r.queue = p_queue and r.state = 'running' limit v_queue.max_running) as slot));
    end if;
    if v_queue.starts_per_period is not null and v_queue.period_started_at + v_queue.period > engine_now() then
        room := least(room, v_queue.starts_per_period - v_queue.period_starts);
    else
        room := least(room, v_queue.starts_per_period);
    end if;
end
$$;
