-- Keeps how far a walk of sweep_queues has come: the key it looked at last, alone or as an array of one. Nothing: it came
-- to the end, and begins anew.
create function walk_reached(p_walk text, p_key text[]) returns void
language sql
as $$
    delete from sweep_walk as w where w.name = p_walk and coalesce(p_key, '{}') = '{}';
    insert into sweep_walk as w (name, reached)
    select p_walk, array(select unnest(p_key)) where p_key <> '{}'
    on conflict (name) do update set reached = excluded.reached;
$$;
