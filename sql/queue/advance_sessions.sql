-- Goes on with ordered sessions whose head has left the live runs: the next run, by number, becomes the head and is
-- queued; a session without one is gone. The caller holds the sessions' locks and names each head with its number: looked
-- for from there on, the next one costs the same in a session of any length. A session whose head is another run stays.
create function advance_sessions(p_runs bigint[], p_tenants text[], p_sessions text[], p_nos bigint[], p_notify boolean)
returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    with ended as materialized (
        select s.tenant_id, s.session_id,
               (select r.id from run as r
                where r.tenant_id = s.tenant_id and r.session_id = s.session_id and r.state = 'blocked'
                  and r.order_no > i.no
                order by r.order_no
                limit 1) as next_id
        from unnest(p_runs, p_tenants, p_sessions, p_nos) as i(id, tenant_id, session_id, no)
        join ordered_session as s on s.tenant_id = i.tenant_id and s.session_id = i.session_id and s.head_id = i.id
    ),
    gone as (
        delete from ordered_session as s using ended as e
        where e.next_id is null and s.tenant_id = e.tenant_id and s.session_id = e.session_id
    ),
    moved as (
        update ordered_session as s set head_id = e.next_id from ended as e
        where e.next_id is not null and s.tenant_id = e.tenant_id and s.session_id = e.session_id
    ),
    promoted as (
        update run as r
        set state = case when r.run_at > engine_now() then 'scheduled' else 'queued' end, fresh = false
        from ended as e where r.id = e.next_id
        returning r.queue, r.tenant_id, r.task, r.state
    )
    select array_agg(p.queue), array_agg(p.tenant_id), array_agg(p.task) into v_queues, v_tenants, v_tasks
    from promoted as p where p.state = 'queued';
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
end
$$;
