-- Takes schedules from one moment to the next, and enqueues the runs of those that fire, in one transaction: a moment
-- brings one run, however many schedulers try. One array position a schedule:
--   p_counts_from, p_seen  counts_from and next_at as due_schedules showed them; a schedule that somebody else has
--                          moved or changed since, or is about to, is left alone
--   p_ats                  the moment to fire for; null: it only moves on
--   p_next_ats             its next moment; null, with the reason in p_errors: it stands still
-- A @periodic one shares procrastinate's own guard, so that a stock worker beside fires none of its moments again.
-- Answers those that it moved; run_id is null where there is no run, or a stock worker has enqueued it.
create function fire_schedules(
    p_tenants text[],
    p_names text[],
    p_counts_from timestamptz[],
    p_seen timestamptz[],
    p_ats timestamptz[],
    p_next_ats timestamptz[],
    p_errors text[] default null,
    p_notify boolean default true
) returns table (tenant_id text, name text, run_id bigint)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_locked bigint[];
    v_mine bigint[];
    v_firing bigint[];
    v_new record;
    v_runs bigint[];
    v_statuses text[];
begin
    perform assert_read_committed();
    select array_agg(l.ord) into v_locked
    from (
        select i.ord
        from unnest(p_tenants, p_names) with ordinality as i(tenant, name, ord)
        join schedule as s on s.tenant_id = i.tenant and s.name = i.name
        order by s.tenant_id, s.name
        for no key update of s skip locked
    ) as l;

    select array_agg(i.ord) into v_mine
    from unnest(p_tenants, p_names, p_counts_from, p_seen) with ordinality as i(tenant, name, counts_from, seen, ord)
    join schedule as s on s.tenant_id = i.tenant and s.name = i.name
    where i.ord = any (v_locked) and not s.paused
      and s.counts_from = i.counts_from and s.next_at is not distinct from i.seen;

    with guarded as (
        insert into procrastinate_periodic_defers as d (task_name, periodic_id, defer_timestamp)
        select s.task, s.periodic_id, date_part('epoch', i.at)::bigint
        from unnest(p_tenants, p_names, p_ats) with ordinality as i(tenant, name, at, ord)
        join schedule as s on s.tenant_id = i.tenant and s.name = i.name
        where i.ord = any (v_mine) and i.at is not null and s.periodic_id is not null
        order by s.task, s.periodic_id
        on conflict (task_name, periodic_id) do update set defer_timestamp = excluded.defer_timestamp, job_id = null
            where d.defer_timestamp < excluded.defer_timestamp
        returning d.task_name, d.periodic_id
    )
    select array_agg(i.ord order by i.ord) into v_firing
    from unnest(p_tenants, p_names, p_ats) with ordinality as i(tenant, name, at, ord)
    join schedule as s on s.tenant_id = i.tenant and s.name = i.name
    left join guarded as g on g.task_name = s.task and g.periodic_id = s.periodic_id
    where i.ord = any (v_mine) and i.at is not null and (s.periodic_id is null or g.task_name is not null);

    if v_firing is not null then
        select array_agg(s.tenant_id order by f.ord) as tenants,
               array_agg(s.task order by f.ord) as tasks,
               array_agg((case when s.periodic_id is null then s.args
                               else s.args || jsonb_build_object('timestamp', date_part('epoch', p_ats[f.ord])::bigint)
                          end)::text order by f.ord) as args,
               array_agg(s.queue order by f.ord) as queues,
               array_agg(s.priority order by f.ord) as priorities,
               array_agg(s.unique_key order by f.ord) as unique_keys,
               array_agg(s.session_id order by f.ord) as sessions,
               array_agg(s.on_failure order by f.ord) as orders
        into v_new
        from unnest(v_firing) as f(ord)
        join schedule as s on s.tenant_id = p_tenants[f.ord] and s.name = p_names[f.ord];

        select array_agg(e.run_id order by e.ord), array_agg(e.status order by e.ord) into v_runs, v_statuses
        from enqueue_runs(v_new.tenants, v_new.tasks, v_new.args, v_new.queues, v_new.priorities,
                          p_sessions => v_new.sessions, p_unique => v_new.unique_keys, p_orders => v_new.orders,
                          p_notify => p_notify) as e;

        update procrastinate_periodic_defers as d set job_id = f.run_id
        from unnest(v_firing, v_runs) as f(ord, run_id)
        join schedule as s on s.tenant_id = p_tenants[f.ord] and s.name = p_names[f.ord]
        where d.task_name = s.task and d.periodic_id = s.periodic_id;
    end if;

    return query
    update schedule as s
    set next_at = p_next_ats[m.ord],
        last_at = case when f.run_id is null then s.last_at else p_ats[m.ord] end,
        last_run_id = coalesce(f.run_id, s.last_run_id),
        error = case when p_errors[m.ord] is not null then p_errors[m.ord]
                     when f.status = 'not_unique' then 'a run with its uniqueness key was still queued'
                     when f.status = 'queue_full' then 'its queue was full'
                     when f.run_id is null then f.status end
    from unnest(v_mine) as m(ord)
    left join unnest(v_firing, v_runs, v_statuses) as f(ord, run_id, status) on f.ord = m.ord
    where s.tenant_id = p_tenants[m.ord] and s.name = p_names[m.ord]
    returning s.tenant_id, s.name, f.run_id;
end
$$;
