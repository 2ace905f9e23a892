-- Brings failed and cancelled runs back to their queue. Checkpoints stay, so a workflow goes on from its last
-- finished step; the attempt number goes on too, so no writer of an older attempt can come back to life.
-- An ordered run whose session waits for it keeps its place; any other goes to its session's end.
-- p_tenant null: any tenant's (operators). status: requeued | live (not finished) | succeeded | unknown.
create function requeue_runs(p_tenant text, p_runs bigint[], p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_back run_history[];
    v_nos bigint[];
    v_heads boolean[];
    v_requeued bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
    v_oldest timestamptz := (select run_created_at(min(i)) from unnest(p_runs) as i);
begin
    perform assert_read_committed();
    -- Ordered sessions before the runs; a row of history that another requeue took meanwhile is gone by the next statement.
    perform lock_finished_sessions(p_runs);
    with back as (
        delete from run_history as h
        where h.id = any (p_runs) and h.finished_at >= v_oldest and h.state in ('failed', 'cancelled')
          and (p_tenant is null or h.tenant_id = p_tenant)
        returning h as run
    )
    select array_agg(b.run order by (b.run).id) into v_back from back as b;
    if v_back is not null then
        if exists (select from unnest(v_back) as b where b.order_no is not null) then
            -- A head that its session waits for is not numbered anew.
            select array_agg(coalesce(n.order_no, b.order_no) order by n.ord), array_agg(n.head order by n.ord)
            into v_nos, v_heads
            from number_ordered_runs(
                array(select b.id from unnest(v_back) as b order by b.id),
                array(select b.tenant_id from unnest(v_back) as b order by b.id),
                array(select b.session_id from unnest(v_back) as b order by b.id),
                array(select case when not exists (select from ordered_session as s
                                                   where s.tenant_id = b.tenant_id and s.session_id = b.session_id
                                                     and s.head_id = b.id) then b.on_failure end
                      from unnest(v_back) as b order by b.id)) as n
            join unnest(v_back) with ordinality as b on b.ordinality = n.ord;
        end if;
        with live as (
            insert into run (id, tenant_id, queue, task, state, fresh, priority, session_id, args, attempt, error, order_no,
                             on_failure, retry, parent_id, parent_step, traceparent)
            select b.id, b.tenant_id, b.queue, b.task, case when not v_heads[i.ord] then 'blocked' else 'queued' end, false,
                   b.priority, b.session_id, b.args, b.attempt, b.error, v_nos[i.ord],
                   case when v_nos[i.ord] is not null then b.on_failure end, b.retry, b.parent_id, b.parent_step,
                   b.traceparent
            from generate_subscripts(v_back, 1) as i(ord)
            cross join lateral (select (v_back[i.ord]).*) as b
            returning id, queue, tenant_id, task, state
        )
        select array_agg(l.id), array_agg(l.queue) filter (where l.state = 'queued'),
               array_agg(l.tenant_id) filter (where l.state = 'queued'), array_agg(l.task) filter (where l.state = 'queued')
        into v_requeued, v_queues, v_tenants, v_tasks
        from live as l;
        perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    end if;
    return query select * from run_statuses(p_tenant, p_runs, v_requeued, 'requeued', 'live', 'succeeded');
end
$$;
