-- Those of p_tasks (null: all that have lanes in the queue) that nobody has paused.
create function open_tasks(p_queue text, p_tasks text[]) returns text[]
language sql stable
as $$
    select array_agg(t.name)
    from unnest(coalesce(p_tasks, lane_tasks(p_queue))) as t(name)
    where not exists (select from task as k where k.name = t.name and k.paused)
$$;
