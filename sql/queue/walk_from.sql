-- The key of p_columns columns after which a walk of sweep_queues goes on; empty strings, before every key, where it begins.
create function walk_from(p_walk text, p_columns integer) returns text[]
language sql stable
as $$
    select coalesce((select w.reached from sweep_walk as w where w.name = p_walk), array_fill(''::text, array[p_columns]))
$$;
