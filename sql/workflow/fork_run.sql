-- A new run with the task, the arguments and the first p_steps finished steps of another one, live or over: it goes on
-- from there. Of a workflow that runs steps side by side, the first are those that finished first. What a step keeps aside
-- (name#until, #caught, #failed-1, #children-0, #outputs-0) is no step of its own, and goes with it; so does the signal that a wait
-- has had, by which the next one gets its number.
--   p_steps  more than the run has finished are refused: they would run a second time
--   p_task   another task or version to try them on; null: the same, also where a newer version is registered. Its plain name is the newest, as everywhere
-- p_tenant null: any tenant's (operators). It has no session and no order: readers of the old one see nothing of it.
create function fork_run(p_tenant text, p_run bigint, p_steps integer, p_task text default null,
                         p_notify boolean default true)
returns table (run_id bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_aside constant text := '#(until|caught|failed-[0-9]+|children-[0-9]+|outputs-[0-9]+)$';
    v_old record;
    v_id bigint;
    v_status text;
    v_kept text[];
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
    select array_agg(k.step) into v_kept
    from (select c.step from checkpoint as c
          where c.run_id = p_run and c.step !~ c_aside
          order by c.finished_at, c.step
          limit p_steps) as k;
    if coalesce(cardinality(v_kept), 0) < p_steps then
        raise exception 'run % has finished % step%, and % were asked for', p_run, coalesce(cardinality(v_kept), 0),
                        case when cardinality(v_kept) = 1 then '' else 's' end, p_steps
            using errcode = 'HW016', hint = 'keep fewer';
    end if;
    select e.run_id, e.status into v_id, v_status
    from enqueue_runs(array[v_old.tenant_id], array[coalesce(p_task, case when v_old.task like '%@%' then v_old.task else v_old.task || '@1' end)], array[v_old.args::text],
                      array[v_old.queue], p_priorities => array[v_old.priority], p_retries => array[v_old.retry::text],
                      p_notify => p_notify) as e;
    if v_id is null then
        raise exception 'the fork of run % was refused: %', p_run, v_status
            using errcode = case v_status when 'queue_full' then 'HW018' else 'HW004' end;
    end if;
    insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at, after)
    select v_id, c.step, c.tenant_id, 1, c.output, c.started_at, c.finished_at, c.after
    from checkpoint as c
    where c.run_id = p_run
      and (regexp_replace(c.step, c_aside, '') = any (v_kept)
           -- A failure that the code had caught before the last step that is kept; after it, it is tried again.
           or c.step ~ '#caught$' and c.finished_at <= (select max(k.finished_at) from checkpoint as k
                                                        where k.run_id = p_run and k.step = any (v_kept)));
    insert into signal (run_id, name, no, tenant_id, payload, key, sent_at)
    select v_id, s.name, s.no, s.tenant_id, s.payload, s.key, s.sent_at
    from signal as s
    where s.run_id = p_run
      and exists (select from checkpoint as c
                  where c.run_id = v_id and c.output ->> 'signal' = s.name and c.output -> 'no' = to_jsonb(s.no));
    -- Its first attempt is the other's: the next one reads what it finished.
    update run as r set attempt = 1 where r.id = v_id;
    return query select v_id;
end
$$;
