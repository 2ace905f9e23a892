-- Those of these (queue, tenant) pairs to which nothing may be added: as many runs as their queue caps are queued there.
-- The counts are up to a second old. Where nobody counts, because no worker and no API process lives, this counts itself.
create function full_queues(p_queues text[], p_tenants text[]) returns table (queue text, tenant_id text)
language sql stable
as $$
    with capped as (
        select distinct q.name, i.t, q.max_queued, q.max_queued_per_tenant, d.queued,
               coalesce(d.counted_at, '-infinity') < engine_now() - interval '5 s' as unknown
        from unnest(p_queues, p_tenants) as i(q, t)
        join queue as q on q.name = i.q and coalesce(q.max_queued, q.max_queued_per_tenant) is not null
        left join queue_depth as d on d.queue = q.name and d.tenant_id = ''
    )
    select c.name, c.t
    from capped as c
    where case when c.unknown then
                   count_queued(c.name, null, c.max_queued) >= c.max_queued
                   or count_queued(c.name, c.t, c.max_queued_per_tenant) >= c.max_queued_per_tenant
               else
                   c.queued >= c.max_queued
                   or exists (select from queue_depth as d
                              where d.queue = c.name and d.tenant_id = c.t and d.queued >= c.max_queued_per_tenant) end
$$;
