-- Brings failed and cancelled runs back to their queue. Checkpoints stay, so a workflow goes on from its last
-- finished step; the attempt number goes on too, so no writer of an older attempt can come back to life.
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
    v_back bigint[];
    v_queues text[];
    v_tenants text[];
    v_oldest timestamptz := (select run_created_at(min(i)) from unnest(p_runs) as i);
begin
    perform assert_read_committed();
    with back as (
        delete from run_history as h
        where h.id = any (p_runs) and h.finished_at >= v_oldest and h.state in ('failed', 'cancelled')
          and (p_tenant is null or h.tenant_id = p_tenant)
        returning h.*
    ),
    live as (
        insert into run (id, tenant_id, queue, task, state, priority, session_id, args, attempt, error)
        select b.id, b.tenant_id, b.queue, b.task, 'queued', b.priority, b.session_id, b.args, b.attempt, b.error
        from back as b
        returning id, queue, tenant_id
    )
    select array_agg(l.id), array_agg(l.queue), array_agg(l.tenant_id) into v_back, v_queues, v_tenants from live as l;
    if v_back is not null then
        perform hold_lanes(v_queues, v_tenants);
        if p_notify then
            perform notify_queues(v_queues);
        end if;
    end if;
    return query
    select i.id,
           case when i.id = any (v_back) then 'requeued'
                when exists (select from run as r
                             where r.id = i.id and (p_tenant is null or r.tenant_id = p_tenant)) then 'live'
                when exists (select from run_history as h
                             where h.id = i.id and h.finished_at >= v_oldest
                               and (p_tenant is null or h.tenant_id = p_tenant)) then 'succeeded'
                else 'unknown' end
    from unnest(p_runs) as i(id);
end
$$;
