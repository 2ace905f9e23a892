-- How many runs are queued in a queue, of one tenant or (null) of all, counted up to p_most; 0 where p_most is null.
create function count_queued(p_queue text, p_tenant text, p_most integer) returns integer
language sql stable
set enable_seqscan = off
as $$
    select count(*)::integer
    from (
        select from run as r
        where r.queue = p_queue and r.state = 'queued' and r.fresh and (p_tenant is null or r.tenant_id = p_tenant)
        limit coalesce(p_most, 0)
    ) as waiting
$$;
