-- Part of sweep_queues: queued runs whose lane is missing get it back. Goes from one (queue, tenant, task) with queued
-- runs to the next by the ready indexes, an index descent each, however many runs they have. (Suspect runs need no lane.)
create function sweep_queued(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_after text[] := walk_from('queued', 3);
    v_last text[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with recursive fresh as (
        (select r.queue, r.tenant_id, r.task, 1 as place from run as r
         where r.state = 'queued' and r.fresh and (r.queue, r.tenant_id, r.task) > (v_after[1], v_after[2], v_after[3])
         order by r.queue, r.tenant_id, r.task
         limit 1)
        union all
        select n.queue, n.tenant_id, n.task, w.place + 1
        from fresh as w
        cross join lateral (
            select r.queue, r.tenant_id, r.task from run as r
            where r.state = 'queued' and r.fresh and (r.queue, r.tenant_id, r.task) > (w.queue, w.tenant_id, w.task)
            order by r.queue, r.tenant_id, r.task
            limit 1) as n
        where w.place < p_limit
    ),
    returned as (
        (select r.queue, r.tenant_id, r.task, 1 as place from run as r
         where r.state = 'queued' and not r.fresh and not r.suspect
           and (r.queue, r.tenant_id, r.task) > (v_after[1], v_after[2], v_after[3])
         order by r.queue, r.tenant_id, r.task
         limit 1)
        union all
        select n.queue, n.tenant_id, n.task, w.place + 1
        from returned as w
        cross join lateral (
            select r.queue, r.tenant_id, r.task from run as r
            where r.state = 'queued' and not r.fresh and not r.suspect
              and (r.queue, r.tenant_id, r.task) > (w.queue, w.tenant_id, w.task)
            order by r.queue, r.tenant_id, r.task
            limit 1) as n
        where w.place < p_limit
    ),
    walked as materialized (
        select * from fresh union all select * from returned
    ),
    without as (
        select distinct w.queue, w.tenant_id, w.task from walked as w
        where not exists (select from lane as l
                          where l.queue = w.queue and l.tenant_id = w.tenant_id and l.task = w.task)
    )
    select (select array_agg(w.queue order by w.queue, w.tenant_id, w.task) from without as w),
           (select array_agg(w.tenant_id order by w.queue, w.tenant_id, w.task) from without as w),
           (select array_agg(w.task order by w.queue, w.tenant_id, w.task) from without as w),
           -- Where both stopped early, the one that is behind: what the other saw beyond it, it sees again.
           (select array[w.queue, w.tenant_id, w.task] from walked as w
            where w.place = p_limit order by w.queue, w.tenant_id, w.task limit 1)
    into v_queues, v_tenants, v_tasks, v_last;
    perform walk_reached('queued', v_last);
    if v_queues is not null then
        perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
        return query select 'queued run without lane', cardinality(v_queues);
    end if;
end
$$;
