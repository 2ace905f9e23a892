-- Enqueues a batch of runs, one an array position, and answers in the same positions.
--   p_args       JSON objects as text, up to 1 MiB each
--   p_queues     null: the queue that the task's workers registered, else 'default'
--   p_run_ats    null: now; a later time makes the run 'scheduled'
--   p_keys       idempotency keys, unique per tenant for their window; null: none
--   p_unique     uniqueness keys while queued (procrastinate's queueing lock); null: none
--   p_orders     skip | block: the run is one of its session's ordered runs, which go one at a time in the order in which
--                they were enqueued; when it fails for good, the session goes on without it, or waits. null: not ordered
--   p_deadlines  when the run has failed if it has not ended; null: never
--   p_retries    JSON objects that override the task's own retry strategy; null: none
--   p_windows    how long an idempotency key is remembered; null: a day
--   p_parent, p_parent_step  the run, and its step, that waits for all of these: see spawn_children
--   p_traceparents  W3C trace contexts, which the runs' events bear, and their children's; null: none. What is none is
--                   ignored, as W3C asks.
-- A task that has versions means the newest, unless one is named: 'name@2', or 'name@1', whose runs bear the plain name.
-- status: created | existing (same key, same task and arguments: its run is returned; the plain name is the same task as the
--         version that the run has, also when there is a newer one by now)
--         | conflict (same key, other task or arguments) | not_unique | unknown_tenant
--         | queue_full (its queue caps what may wait there); a bad item fails alone.
-- task: as the run bears it, with its version.
create function enqueue_runs(
    p_tenants text[],
    p_tasks text[],
    p_args text[],
    p_queues text[] default null,
    p_priorities integer[] default null,
    p_run_ats timestamptz[] default null,
    p_sessions text[] default null,
    p_keys text[] default null,
    p_unique text[] default null,
    p_orders text[] default null,
    p_deadlines timestamptz[] default null,
    p_retries text[] default null,
    p_windows interval[] default null,
    p_notify boolean default true,
    p_parent bigint default null,
    p_parent_step text default null,
    p_traceparents text[] default null
) returns table (ord bigint, run_id bigint, status text, task text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_ids bigint[];
    v_queues text[];
    v_tasks text[];
    v_status text[];
    v_order_nos bigint[];
    v_heads boolean[];
    v_full text[];
    v_new_queues text[];
    v_new_tenants text[];
    v_new_tasks text[];
begin
    perform assert_read_committed();
    -- Before any id is made: a lane's floor may pass an id only once the transactions that could still commit an
    -- earlier one have ended, and it knows them by this number.
    perform pg_current_xact_id();

    select array_agg(next_run_id() order by i.ord),
           array_agg(coalesce(i.queue, t.queue, 'default') order by i.ord),
           array_agg(case when i.task like '%@1' then p.plain else coalesce(t.newest, i.task) end order by i.ord),
           array_agg(case when tn.id is null then 'unknown_tenant' else 'created' end order by i.ord)
    into v_ids, v_queues, v_tasks, v_status
    from unnest(p_tenants, p_tasks, p_queues) with ordinality as i(tenant, task, queue, ord)
    cross join lateral (select case when i.task like '%@1' then left(i.task, -2) else i.task end as plain) as p
    left join task as t on t.name = p.plain
    left join tenant as tn on tn.id = i.tenant;
    -- Ids in the order given, whatever order the rows were numbered in.
    select array_agg(id order by id) into v_ids from unnest(v_ids) as id;

    if exists (select from queue as q where coalesce(q.max_queued, q.max_queued_per_tenant) is not null) then
        v_full := array(select f.queue || ' ' || f.tenant_id from full_queues(v_queues, p_tenants) as f);
        select array_agg(case when i.status = 'created' and i.queue || ' ' || i.tenant = any (v_full) then 'queue_full'
                              else i.status end order by i.ord)
        into v_status
        from unnest(v_queues, p_tenants, v_status) with ordinality as i(queue, tenant, status, ord);
    end if;

    if exists (select from unnest(p_keys) as k where k is not null) then
        -- A key whose window is over is anybody's again.
        delete from idempotency_key as k
        using unnest(p_tenants, p_keys) as i(tenant, key)
        where k.tenant_id = i.tenant and k.key = i.key and k.expires_at <= v_now;

        insert into idempotency_key as k (tenant_id, key, task, args_md5, run_id, created_at, expires_at)
        select distinct on (i.tenant, i.key) i.tenant, i.key, i.task, md5(i.args::jsonb::text), i.id, v_now,
               v_now + coalesce(i.keep, interval '1 day')
        from unnest(p_tenants, v_tasks, p_args, p_keys, v_ids, v_status, p_windows) with ordinality
            as i(tenant, task, args, key, id, status, keep, ord)
        where i.key is not null and i.status = 'created'
        order by i.tenant, i.key, i.ord
        on conflict do nothing;

        select array_agg(case when k.run_id is null or k.run_id = i.id then i.id else k.run_id end order by i.ord),
               array_agg(case when k.run_id is null or k.run_id = i.id then i.status
                              when k.args_md5 = md5(i.args::jsonb::text)
                                   and (k.task = i.task or regexp_replace(k.task, '@[0-9]+$', '') = i.asked) then 'existing'
                              else 'conflict' end order by i.ord),
               array_agg(coalesce(k.task, i.task) order by i.ord)
        into v_ids, v_status, v_tasks
        from unnest(p_tenants, v_tasks, p_tasks, p_args, p_keys, v_ids, v_status) with ordinality
            as i(tenant, task, asked, args, key, id, status, ord)
        left join idempotency_key as k on k.tenant_id = i.tenant and k.key = i.key and i.key is not null;
    end if;

    insert into queue (name)
    select distinct q from unnest(v_queues, v_status) as i(q, status)
    where i.status = 'created' and not exists (select from queue where name = i.q)
    order by q
    on conflict do nothing;

    if exists (select from unnest(p_orders) as o where o is not null) then
        select array_agg(o.order_no order by o.ord), array_agg(o.head order by o.ord)
        into v_order_nos, v_heads
        from number_ordered_runs(
            v_ids, p_tenants, p_sessions,
            array(select case when i.status = 'created' then i.kind end
                  from unnest(v_status, p_orders) with ordinality as i(status, kind, ord) order by i.ord)) as o;
    end if;

    with inserted as (
        insert into run (id, tenant_id, queue, task, state, priority, session_id, unique_key, args, run_at, order_no,
                         on_failure, deadline, retry, parent_id, parent_step, traceparent)
        select i.id, i.tenant, i.queue, i.task,
               case when not i.head then 'blocked' when i.run_at > v_now then 'scheduled' else 'queued' end,
               coalesce(i.priority, 0), i.session, i.unique_key, i.args::jsonb, i.run_at, i.order_no,
               case when i.order_no is not null then i.kind end, i.deadline, i.retry::jsonb, p_parent, p_parent_step,
               case when i.traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then i.traceparent end
        from unnest(v_ids, p_tenants, v_queues, v_tasks, p_priorities, p_sessions, p_unique, p_args, p_run_ats, v_status,
                    v_order_nos, v_heads, p_orders, p_deadlines, p_retries, p_traceparents)
            with ordinality as i(id, tenant, queue, task, priority, session, unique_key, args, run_at, status,
                                 order_no, head, kind, deadline, retry, traceparent, ord)
        where i.status = 'created'
        order by i.tenant, i.unique_key, i.ord
        on conflict (tenant_id, unique_key)
            where unique_key is not null and state in ('queued', 'scheduled', 'blocked') do nothing
        returning id, queue, tenant_id, task, state
    )
    select array_agg(queue) filter (where state = 'queued'), array_agg(tenant_id) filter (where state = 'queued'),
           array_agg(task) filter (where state = 'queued')
    into v_new_queues, v_new_tenants, v_new_tasks
    from inserted;

    if exists (select from unnest(p_unique) as u where u is not null) then
        select array_agg(case when i.status = 'created' and i.unique_key is not null
                                   and not exists (select from run as r where r.id = i.id)
                              then 'not_unique' else i.status end order by i.ord)
        into v_status
        from unnest(v_ids, p_unique, v_status) with ordinality as i(id, unique_key, status, ord);
        -- Nor is there one for the same request again, beside it in this batch.
        select array_agg(case when i.status = 'existing'
                                   and i.id = any (array(select j.id from unnest(v_ids, v_status) as j(id, status)
                                                         where j.status = 'not_unique'))
                              then 'not_unique' else i.status end order by i.ord)
        into v_status
        from unnest(v_ids, v_status) with ordinality as i(id, status, ord);
        delete from idempotency_key as k
        using unnest(p_tenants, p_keys, v_ids, v_status) as i(tenant, key, id, status)
        where i.status = 'not_unique' and k.tenant_id = i.tenant and k.key = i.key and k.run_id = i.id;
        -- Numbered, but never there: their ordered sessions go on with what came after.
        if v_order_nos is not null then
            perform advance_sessions(array_agg(i.id), array_agg(i.tenant), array_agg(i.session), array_agg(i.no), p_notify)
            from unnest(v_ids, p_tenants, p_sessions, v_order_nos, v_status) as i(id, tenant, session, no, status)
            where i.status = 'not_unique' and i.no is not null
            having count(*) > 0;
        end if;
    end if;

    if v_new_queues is not null then
        perform hold_lanes(v_new_queues, v_new_tenants, v_new_tasks);
        if p_notify then
            perform notify_queues(v_new_queues);
        end if;
    end if;

    return query
    select i.ord, case when i.status in ('created', 'existing') then i.id end, i.status, i.task
    from unnest(v_ids, v_status, v_tasks) with ordinality as i(id, status, task, ord)
    order by i.ord;
end
$$;
