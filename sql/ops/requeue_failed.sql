-- select * from ops.requeue_failed('{"task": "invoice.send"}'): brings back the failed runs that fit, 1,000 at most; call it
-- again while there is more. Keys: queue, task, tenant, error (its type), since, until (when it failed), ids.
create function requeue_failed(p_filter jsonb default '{}', p_limit integer default 1000)
returns table (requeued integer, more boolean)
language sql
as $$
    select * from requeue_failed(p_filter, p_limit, true)
$$;
