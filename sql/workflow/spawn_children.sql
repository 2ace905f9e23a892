-- Enqueues child runs of a step of a running run and keeps their ids as that step's output, in one transaction: all are
-- there, or none. They go to the parent's tenant, and have its deadline and its trace.
--   p_attempt  the parent's fencing token; refused (HW001) when it is an old one
--   p_step     a part of the step's children, whose ids are kept under this name; p_group: the step, which awaits all parts
-- Returns the children's ids, in order: those of before where the step has spawned already.
create function spawn_children(p_run bigint, p_attempt integer, p_step text, p_group text, p_tasks text[], p_args text[],
                               p_queues text[] default null, p_notify boolean default true)
returns table (child_ids bigint[])
language plpgsql
as $$
#variable_conflict use_column
declare
    v_run run;
    v_ids bigint[];
    v_bad text;
    v_count integer := cardinality(p_tasks);
begin
    perform assert_read_committed();
    select r.* into v_run from run as r
    where r.id = p_run and r.attempt = p_attempt and r.claimed_at is not null
    for no key update;
    if not found then
        raise exception 'attempt % of run % is over: it can have no more children', p_attempt, p_run
            using errcode = 'HW001', hint = 'stop: another attempt has the run, or it has ended';
    end if;
    select array(select jsonb_array_elements_text(c.output -> 'children')::bigint) into v_ids
    from checkpoint as c where c.run_id = p_run and c.step = p_step;
    if not found then
        select array_agg(e.run_id order by e.ord), min(e.status) filter (where e.status <> 'created')
        into v_ids, v_bad
        from enqueue_runs(
            array_fill(v_run.tenant_id, array[v_count]), p_tasks, p_args, p_queues,
            p_deadlines => array_fill(v_run.deadline, array[v_count]), p_notify => p_notify,
            p_parent => p_run, p_parent_step => p_group,
            p_traceparents => array_fill(v_run.traceparent, array[v_count])) as e;
        if v_bad is not null then
            raise exception 'run % can have no such children: %', p_run, v_bad
                using errcode = case v_bad when 'queue_full' then 'HW018' else 'HW004' end,
                      hint = 'the children''s queue may be full: try again later';
        end if;
        insert into checkpoint (run_id, step, tenant_id, attempt, output, started_at, finished_at)
        values (p_run, p_step, v_run.tenant_id, p_attempt, jsonb_build_object('children', to_jsonb(v_ids)), engine_now(),
                engine_now());
    end if;
    return query select v_ids;
end
$$;
