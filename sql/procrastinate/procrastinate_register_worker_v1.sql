-- A stock worker announces itself. Its name's beginning tells it from Howdah's own: it heartbeats more slowly.
create function procrastinate_register_worker_v1() returns table (worker_id bigint)
language sql
as $$
    select w.worker_id from register_worker('procrastinate:' || pg_backend_pid(), '{}') as w
$$;
