-- A new run with the task, the arguments and the first p_steps finished steps of another one, live or over: it goes on
-- from there. Of a workflow that runs steps side by side, the first are those that finished first.
--   p_task   another task or version to try them on; null: the same
-- p_tenant null: any tenant's (operators). It has no session and no order: readers of the old one see nothing of it.
create function fork_run(p_tenant text, p_run bigint, p_steps integer, p_task text default null,
                         p_notify boolean default true)
returns table (run_id bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_old record;
    v_id bigint;
    v_status text;
begin
    perform assert_read_committed();
    select o.* into v_old
    from (select r.tenant_id, r.task, r.args, r.queue, r.priority, r.retry from run as r where r.id = p_run
          union all
          select h.tenant_id, h.task, h.args, h.queue, h.priority, h.retry from run_history as h
          where h.id = p_run and h.finished_at >= run_created_at(p_run)) as o
    where p_tenant is null or o.tenant_id = p_tenant;
    if not found then
        raise exception 'run % is unknown', p_run using errcode = 'HW002';
    end if;
    if p_steps < 0 then
        raise exception 'a run cannot be forked from step %', p_steps
            using errcode = 'HW016', hint = 'say how many finished steps the new run shall keep: 0 or more';
    end if;
    select e.run_id, e.status into v_id, v_status
    from enqueue_runs(array[v_old.tenant_id], array[coalesce(p_task, v_old.task)], array[v_old.args::text],
                      array[v_old.queue], p_priorities => array[v_old.priority], p_retries => array[v_old.retry::text],
                      p_notify => p_notify) as e;
    if v_id is null then
        raise exception 'the fork of run % was refused: %', p_run, v_status
            using errcode = case v_status when 'queue_full' then 'HW018' else 'HW004' end;
    end if;
    with first as materialized (
        select c.* from checkpoint as c where c.run_id = p_run order by c.finished_at, c.step limit p_steps
    ),
    -- Children that had not all ended are the other run's: nobody would wake this one for them. It sends its own.
    kept as materialized (
        select f.* from first as f
        where f.step !~ '#children-[0-9]+$'
           or exists (select from first as g where g.step = regexp_replace(f.step, '#children-[0-9]+$', ''))
    ),
    -- What its waits have had, so that what is sent to it now has later numbers.
    had as (
        insert into signal (run_id, name, no, tenant_id, payload, key, sent_at)
        select v_id, s.name, s.no, s.tenant_id, s.payload, s.key, s.sent_at
        from signal as s
        where s.run_id = p_run
          and exists (select from kept as k
                      where split_part(k.step, '#', 1) = s.name
                        and k.output @> jsonb_build_object('signal', s.name, 'no', s.no))
    )
    insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at, after)
    select v_id, k.step, k.tenant_id, 1, k.output, k.started_at, k.finished_at, k.after
    from kept as k;
    -- Its first attempt is the other's: the next one reads what it finished.
    update run as r set attempt = 1 where r.id = v_id;
    return query select v_id;
end
$$;
