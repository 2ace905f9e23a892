-- The virtual time at which a lane of this queue begins: the least of the lanes that claims look at; 0 if there is none.
create function least_virtual_time(p_queue text) returns double precision
language sql stable
set enable_seqscan = off
as $$
    select coalesce(min(h.virtual_time), 0)
    from unnest(lane_tasks(p_queue)) as t(task)
    cross join lateral (
        select l.virtual_time from lane as l
        where l.queue = p_queue and l.task = t.task and not l.parked
        order by l.virtual_time
        limit 1
    ) as h
$$;
