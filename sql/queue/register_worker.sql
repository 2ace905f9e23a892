-- A worker announces itself; its id goes into every claim. p_tasks: what it can run; empty: it does not say.
create function register_worker(p_name text, p_queues text[], p_tasks text[] default '{}') returns table (worker_id bigint)
language sql
as $$
    insert into worker (name, queues, tasks, started_at, heartbeat_at)
    values (p_name, p_queues, p_tasks, engine_now(), engine_now())
    returning id
$$;
