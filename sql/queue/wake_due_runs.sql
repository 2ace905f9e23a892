-- Queues scheduled and waiting runs whose time has come, p_limit at most. Answers how many, and when the next one is due.
create function wake_due_runs(p_limit integer default 1000, p_notify boolean default true)
returns table (woken integer, next_at timestamptz)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := engine_now();
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
begin
    perform assert_read_committed();
    with due as (
        select r.id from run as r
        where r.state in ('scheduled', 'waiting') and r.run_at <= v_now
        order by r.run_at
        limit p_limit
        for no key update skip locked
    ),
    woken as (
        update run as r set state = 'queued', fresh = false, awaits = null from due as d where r.id = d.id
        returning r.queue, r.tenant_id, r.task
    )
    select array_agg(w.queue), array_agg(w.tenant_id), array_agg(w.task) into v_queues, v_tenants, v_tasks from woken as w;
    perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
    return query
    select coalesce(cardinality(v_queues), 0),
           (select min(r.run_at) from run as r where r.state in ('scheduled', 'waiting') and r.run_at is not null);
end
$$;
