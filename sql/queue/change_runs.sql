-- Changes the priority, the queue or the time of runs that have not started; a null leaves what it is. A time that has
-- passed starts the run now. p_tenant null: any tenant's. status: changed | started (running, or waiting) | finished | unknown.
create function change_runs(p_tenant text, p_runs bigint[], p_priority integer default null, p_queue text default null,
                            p_run_at timestamptz default null, p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_changed bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    perform assert_read_committed();
    perform check_queue_name(p_queue);
    insert into queue (name) select p_queue where p_queue is not null on conflict do nothing;
    -- Who holds an ordered session may lock any of its runs, in no order: so that comes first.
    perform lock_ordered_sessions(p_runs, true);
    perform from run as r where r.id = any (p_runs) order by r.id for no key update;
    -- Not fresh: its place in the order of ids is no longer its place in the queue.
    with changed as (
        update run as r
        set priority = coalesce(p_priority, r.priority), queue = coalesce(p_queue, r.queue), fresh = false,
            run_at = case when r.state = 'blocked' or p_run_at > v_now then coalesce(p_run_at, r.run_at)
                          when p_run_at is null then r.run_at end,
            state = case when r.state = 'blocked' or p_run_at is null then r.state
                         when p_run_at > v_now then 'scheduled' else 'queued' end
        where r.id = any (p_runs) and r.state in ('queued', 'scheduled', 'blocked')
          and (p_tenant is null or r.tenant_id = p_tenant)
        returning r.id, r.queue, r.tenant_id, r.task, r.state
    )
    select array_agg(c.id), array_agg(c.queue) filter (where c.state = 'queued'),
           array_agg(c.tenant_id) filter (where c.state = 'queued'), array_agg(c.task) filter (where c.state = 'queued')
    into v_changed, v_queues, v_tenants, v_tasks
    from changed as c;
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    return query select * from run_statuses(p_tenant, p_runs, v_changed, 'changed', 'started', 'finished');
end
$$;
