-- A worker leaves in order: what it could not finish goes back to the queue at once, without counting a death.
create function unregister_worker(p_worker bigint, p_notify boolean default true) returns table (released integer)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_runs bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    perform assert_read_committed();
    -- A claim whose connection was cut may still be under way here: its runs, too, must be seen below.
    perform from worker as w where w.id = p_worker for update;
    perform lock_ordered_sessions(
        array(select r.id from run as r where r.worker_id = p_worker and r.state = 'running'), true);
    with released as (
        update run as r
        set state = 'queued', fresh = false, worker_id = null, claimed_at = null
        where r.id in (select o.id from run as o
                       where o.worker_id = p_worker and o.state = 'running' order by o.id for no key update)
        returning r.id, r.queue, r.tenant_id, r.task
    )
    select array_agg(q.id), array_agg(q.queue), array_agg(q.tenant_id), array_agg(q.task)
    into v_runs, v_queues, v_tenants, v_tasks from released as q;
    if v_queues is not null then
        perform free_slots(v_queues, v_tenants);
        perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
        perform end_cancelled_runs(v_runs, false);
    end if;
    delete from worker where id = p_worker;
    return query select coalesce(cardinality(v_queues), 0);
end
$$;
