-- The tasks that have lanes in a queue which are not parked: one index descent for each task, however many lanes it has.
create function lane_tasks(p_queue text) returns text[]
language sql stable
as $$
    with recursive found as (
        (select l.task from lane as l where l.queue = p_queue and not l.parked order by l.task limit 1)
        union all
        select (select l.task from lane as l
                where l.queue = p_queue and not l.parked and l.task > f.task order by l.task limit 1)
        from found as f
        where f.task is not null
    )
    select array_agg(f.task) from found as f where f.task is not null
$$;
