-- A stock worker leaves; what it did not finish goes back to the queue at once.
create function procrastinate_unregister_worker_v1(p_worker bigint) returns void
language sql
as $$
    select from unregister_worker(p_worker)
$$;
