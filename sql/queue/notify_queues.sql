-- Tells listening workers that these queues have work: a hint, never the truth.
create function notify_queues(p_queues text[]) returns void
language sql
as $$
    select pg_notify(current_schema() || '.runs', q)
    from (select distinct q from unnest(p_queues) as q) as d
$$;
