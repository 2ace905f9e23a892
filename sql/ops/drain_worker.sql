-- select * from ops.drain_worker(7): the worker claims nothing more, finishes what it runs, and stops. What it has not
-- finished by its shutdown time goes back to the queue.
create function drain_worker(p_worker bigint) returns table (worker_id bigint, status text)
language sql
as $$
    select * from drain_worker(p_worker)
$$;
