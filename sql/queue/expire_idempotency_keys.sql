-- Deletes idempotency keys whose window is over, p_limit at most. Returns how many went.
create function expire_idempotency_keys(p_limit integer default 10000) returns table (expired integer)
language sql
set enable_seqscan = off
as $$
    with gone as (
        delete from idempotency_key as k
        using (select e.tenant_id, e.key from idempotency_key as e
               where e.expires_at <= engine_now()
               order by e.expires_at
               limit p_limit
               for update skip locked) as e
        where k.tenant_id = e.tenant_id and k.key = e.key
        returning 1
    )
    select count(*)::integer from gone
$$;
