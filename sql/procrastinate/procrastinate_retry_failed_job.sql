-- Brings a job that failed for good back from history; its failures are counted on. See procrastinate_retry_job_v2.
-- A lock has gone on without it, so it goes to its lock's end.
create function procrastinate_retry_failed_job(
    p_job bigint, p_retry_at timestamptz, p_priority integer, p_queue text, p_lock text
) returns void
language plpgsql
as $$
declare
    v_old run_history;
    v_run run;
begin
    select h.* into v_old from run_history as h where h.id = p_job and h.finished_at >= run_created_at(p_job);
    if p_lock is not null and (v_old.order_no is null or v_old.session_id <> p_lock) then
        -- It leaves its session, which may wait for it, before it joins another.
        perform from discard_runs(null, array[p_job]);
        update run_history as h set session_id = p_lock, order_no = 0, on_failure = 'skip'
        where h.id = p_job and h.finished_at = v_old.finished_at;
    end if;
    -- Back under the run's lock: nobody can claim it before this transaction has said when.
    perform from requeue_runs(null, array[p_job], p_notify => false);
    update run as r
    set failures = v_old.failures, priority = coalesce(p_priority, r.priority), queue = coalesce(p_queue, r.queue),
        run_at = p_retry_at,
        state = case when r.state = 'blocked' then 'blocked'
                     when p_retry_at > engine_now() then 'scheduled' else 'queued' end
    where r.id = p_job
    returning r.* into v_run;
    perform hold_lanes(array[v_run.queue], array[v_run.tenant_id], array[v_run.task]);
end
$$;
