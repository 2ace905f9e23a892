-- Runs a job again at p_retry_at: one that its stock worker has just failed, or one that failed for good.
-- A running job that was asked to abort fails instead. New priority and queue: null leaves them as they are.
create function procrastinate_retry_job_v2(
    p_job bigint,
    p_retry_at timestamptz,
    p_priority integer,
    p_queue character varying,
    p_lock character varying
) returns void
language plpgsql
as $$
declare
    v_run run;
    v_failures integer;
begin
    if p_lock is not null then
        perform procrastinate_refuse_lock(p_lock);
    end if;
    insert into queue (name) select p_queue where p_queue is not null on conflict do nothing;

    select h.failures into v_failures
    from run_history as h
    where h.id = p_job and h.finished_at >= run_created_at(p_job) and h.state = 'failed';
    if found then
        -- Back under the run's lock: nobody can claim it before this transaction has said when.
        perform from requeue_runs(null, array[p_job], p_notify => false);
        update run as r
        set failures = v_failures, priority = coalesce(p_priority, r.priority), queue = coalesce(p_queue, r.queue),
            state = case when p_retry_at > engine_now() then 'scheduled' else 'queued' end, run_at = p_retry_at
        where r.id = p_job
        returning r.* into v_run;
        perform hold_lanes(array[v_run.queue], array[v_run.tenant_id], array[v_run.task]);
    else
        v_run := procrastinate_hold_run(p_job);
        if v_run.cancel_requested then
            perform procrastinate_finish_job_v1(p_job, 'failed', false);
            return;
        end if;
        update run as r
        set priority = coalesce(p_priority, r.priority), queue = coalesce(p_queue, r.queue)
        where r.id = p_job
        returning r.* into v_run;
        perform from flush(
            array[p_job], array[v_run.attempt], array['outcome'], array['retry'],
            array['{"type": "JobFailed", "message": "failed, to be retried; its procrastinate worker logged why"}'],
            array[null::text], array[p_retry_at], false);
    end if;
    perform notify_queues(array[v_run.queue]);
    perform procrastinate_notify('job_inserted', p_job, array[v_run.queue]);
end
$$;
