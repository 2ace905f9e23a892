-- Enqueues a batch of runs, one an array position, and answers in the same positions.
--   p_args       JSON objects as text, up to 1 MiB each
--   p_queues     null: the queue that the task's workers registered, else 'default'
--   p_run_ats    null: now; a later time makes the run 'scheduled'
--   p_keys       idempotency keys, unique per tenant; null: none
--   p_unique     uniqueness keys while queued (procrastinate's queueing lock); null: none
-- status: created | existing (same key, same task and arguments: its run is returned)
--         | conflict (same key, other task or arguments) | not_unique | unknown_tenant; a bad item fails alone.
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
    p_notify boolean default true
) returns table (ord bigint, run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_ids bigint[];
    v_queues text[];
    v_status text[];
    v_new_queues text[];
    v_new_tenants text[];
begin
    perform assert_read_committed();

    select array_agg(next_run_id() order by i.ord),
           array_agg(coalesce(i.queue, t.queue, 'default') order by i.ord),
           array_agg(case when tn.id is null then 'unknown_tenant' else 'created' end order by i.ord)
    into v_ids, v_queues, v_status
    from unnest(p_tenants, p_tasks, p_queues) with ordinality as i(tenant, task, queue, ord)
    left join task as t on t.name = i.task
    left join tenant as tn on tn.id = i.tenant;
    -- Ids in the order given, whatever order the rows were numbered in.
    select array_agg(id order by id) into v_ids from unnest(v_ids) as id;

    if exists (select from unnest(p_keys) as k where k is not null) then
        insert into idempotency_key as k (tenant_id, key, fingerprint, run_id, created_at)
        select distinct on (i.tenant, i.key) i.tenant, i.key, md5(i.task || chr(10) || i.args::jsonb), i.id, v_now
        from unnest(p_tenants, p_tasks, p_args, p_keys, v_ids, v_status) with ordinality
            as i(tenant, task, args, key, id, status, ord)
        where i.key is not null and i.status = 'created'
        order by i.tenant, i.key, i.ord
        on conflict do nothing;

        select array_agg(case when k.run_id is null or k.run_id = i.id then i.id else k.run_id end order by i.ord),
               array_agg(case when k.run_id is null or k.run_id = i.id then i.status
                              when k.fingerprint = md5(i.task || chr(10) || i.args::jsonb) then 'existing'
                              else 'conflict' end order by i.ord)
        into v_ids, v_status
        from unnest(p_tenants, p_tasks, p_args, p_keys, v_ids, v_status) with ordinality
            as i(tenant, task, args, key, id, status, ord)
        left join idempotency_key as k on k.tenant_id = i.tenant and k.key = i.key and i.key is not null;
    end if;

    insert into queue (name)
    select distinct q from unnest(v_queues, v_status) as i(q, status)
    where i.status = 'created' and not exists (select from queue where name = i.q)
    order by q
    on conflict do nothing;

    with inserted as (
        insert into run (id, tenant_id, queue, task, state, priority, session_id, unique_key, args, run_at)
        select i.id, i.tenant, i.queue, i.task,
               case when i.run_at > v_now then 'scheduled' else 'queued' end,
               coalesce(i.priority, 0), i.session, i.unique_key, i.args::jsonb, i.run_at
        from unnest(v_ids, p_tenants, v_queues, p_tasks, p_priorities, p_sessions, p_unique, p_args, p_run_ats, v_status)
            with ordinality as i(id, tenant, queue, task, priority, session, unique_key, args, run_at, status, ord)
        where i.status = 'created'
        order by i.tenant, i.unique_key, i.ord
        on conflict (tenant_id, unique_key)
            where unique_key is not null and state in ('queued', 'scheduled', 'blocked') do nothing
        returning id, queue, tenant_id, state
    )
    select array_agg(queue) filter (where state = 'queued'), array_agg(tenant_id) filter (where state = 'queued')
    into v_new_queues, v_new_tenants
    from inserted;

    if exists (select from unnest(p_unique) as u where u is not null) then
        select array_agg(case when i.status = 'created' and i.unique_key is not null
                                   and not exists (select from run as r where r.id = i.id)
                              then 'not_unique' else i.status end order by i.ord)
        into v_status
        from unnest(v_ids, p_unique, v_status) with ordinality as i(id, unique_key, status, ord);
        delete from idempotency_key as k
        using unnest(p_tenants, p_keys, v_ids, v_status) as i(tenant, key, id, status)
        where i.status = 'not_unique' and k.tenant_id = i.tenant and k.key = i.key and k.run_id = i.id;
    end if;

    if v_new_queues is not null then
        perform hold_lanes(v_new_queues, v_new_tenants);
        if p_notify then
            perform notify_queues(v_new_queues);
        end if;
    end if;

    return query
    select i.ord, case when i.status in ('created', 'existing') then i.id end, i.status
    from unnest(v_ids, v_status) with ordinality as i(id, status, ord)
    order by i.ord;
end
$$;
