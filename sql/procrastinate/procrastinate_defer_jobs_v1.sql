-- Stock clients' defer: all of the batch or nothing, for the tenant 'default'. Returns ids in the order given.
--   queueing_lock  a uniqueness key; a second one is refused under the constraint's name that clients look for
--   lock           the job is one of the ordered runs of this session; a failed one lets the session go on
create function procrastinate_defer_jobs_v1(p_jobs procrastinate_job_to_defer_v1[]) returns bigint[]
language plpgsql
as $$
declare
    c_max_args constant integer := 1048576;  -- an argument is a value, not a document: the engine's limit for a run
    v_job procrastinate_job_to_defer_v1;
    v_ids bigint[];
    v_status text;
    v_lock text;
begin
    if coalesce(cardinality(p_jobs), 0) = 0 then
        return '{}';
    end if;
    foreach v_job in array p_jobs loop
        perform check_queue_name(v_job.queue_name);
        if octet_length(v_job.args::text) > c_max_args then
            raise exception 'the arguments of task % are % bytes of JSON, the limit is %',
                quote_literal(v_job.task_name), octet_length(v_job.args::text), c_max_args
                using errcode = 'HW015', hint = 'store them and pass their id';
        end if;
    end loop;

    select array_agg(e.run_id order by e.ord), max(e.status) filter (where e.status <> 'created'),
           min(j.queueing_lock) filter (where e.status = 'not_unique')
    into v_ids, v_status, v_lock
    from enqueue_runs(
        p_tenants => array(select 'default'::text from unnest(p_jobs)),
        p_tasks => array(select j.task_name::text from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_args => array(select coalesce(j.args, '{}')::text from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_queues => array(select j.queue_name::text from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_priorities => array(select j.priority from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_run_ats => array(select j.scheduled_at from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_sessions => array(select j.lock from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_unique => array(select j.queueing_lock from unnest(p_jobs) with ordinality as j order by j.ordinality),
        p_orders => array(select case when j.lock is not null then 'skip' end
                          from unnest(p_jobs) with ordinality as j order by j.ordinality)) as e
    join unnest(p_jobs) with ordinality as j on j.ordinality = e.ord;

    if v_status = 'not_unique' then
        raise exception 'a job with the queueing lock % is already queued', quote_literal(v_lock)
            using errcode = 'unique_violation', constraint = 'procrastinate_jobs_queueing_lock_idx_v1',
                  detail = format('Key (queueing_lock)=(%s) already exists.', v_lock);
    elsif v_status = 'queue_full' then
        raise exception 'a queue of these jobs has as many queued runs as it may'
            using errcode = 'HW018', hint = 'try again in a second, or raise max_queued: select * from ops.queues';
    elsif v_status is not null then
        raise exception 'the tenant ''default'', to whom procrastinate''s jobs belong, is unknown'
            using errcode = 'HW009', hint = 'create it: select * from create_tenant(''default'', ''Default'')';
    end if;

    perform procrastinate_notify('job_inserted', v_ids[1],
                                 array(select distinct j.queue_name::text from unnest(p_jobs) as j));
    return v_ids;
end
$$;
