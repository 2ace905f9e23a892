-- select * from ops.discard_failed('{"error": "Refused"}'): gives up the failed runs that fit, 1,000 at most; call it again
-- while there is more. Keys as for requeue_failed.
create function discard_failed(p_filter jsonb default '{}', p_limit integer default 1000)
returns table (discarded integer, more boolean)
language sql
as $$
    select * from discard_failed(p_filter, p_limit, true)
$$;
