-- Counts what is queued in the queues that cap it; enqueue reads the counts. Workers and API processes call it each
-- second; whoever finds another at it leaves it to that one. Counting ends at the cap.
create function count_depths() returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queue queue;
begin
    for v_queue in
        select q.* from queue as q where coalesce(q.max_queued, q.max_queued_per_tenant) is not null order by q.name
    loop
        continue when not pg_try_advisory_xact_lock(
            hashtextextended(current_schema() || '.depth.' || v_queue.name, 0));
        delete from queue_depth as d where d.queue = v_queue.name and d.tenant_id <> '';
        insert into queue_depth as d (queue, tenant_id, queued, counted_at)
        select v_queue.name, c.tenant_id, c.queued, engine_now()
        from (
            select '' as tenant_id, count_queued(v_queue.name, null, v_queue.max_queued) as queued
            union all
            select t.tenant_id, count_queued(v_queue.name, t.tenant_id, v_queue.max_queued_per_tenant)
            from (select distinct l.tenant_id from lane as l where l.queue = v_queue.name) as t
            where v_queue.max_queued_per_tenant is not null
        ) as c
        where c.tenant_id = '' or c.queued >= v_queue.max_queued_per_tenant
        on conflict (queue, tenant_id) do update set queued = excluded.queued, counted_at = excluded.counted_at;
    end loop;
end
$$;
