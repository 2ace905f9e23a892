-- A worker announces itself; its id goes into every claim.
create function register_worker(p_name text, p_queues text[]) returns table (worker_id bigint)
language sql
as $$
    insert into worker (name, queues, started_at, heartbeat_at)
    values (p_name, p_queues, engine_now(), engine_now())
    returning id
$$;
