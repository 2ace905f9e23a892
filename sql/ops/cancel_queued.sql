-- select * from ops.cancel_queued('{"tenant": "acme"}'): cancels runs that have not started and fit, 1,000 at most; call it
-- again while there is more. Keys: queue, task, tenant, since, until (when it was enqueued), ids.
create function cancel_queued(p_filter jsonb, p_limit integer default 1000, p_reason text default 'cancelled by an operator')
returns table (cancelled integer, requested integer, more boolean)
language sql
as $$
    select * from cancel_queued(p_filter, p_limit, p_reason, true)
$$;
