-- Ends the attempt of a stock worker's job as failed, to be tried again. See procrastinate_retry_job_v2.
-- With the lock that it had, it stays the first of it; with a new one it goes to that one's end, and the old one goes on.
create function procrastinate_retry_running_job(
    p_job bigint, p_retry_at timestamptz, p_priority integer, p_queue text, p_lock text
) returns void
language plpgsql
as $$
declare
    v_run run;
    v_no bigint;
    v_head boolean;
begin
    select r.* into v_run from run as r where r.id = p_job;
    if v_run.id is not null and p_lock is not null and (v_run.order_no is null or v_run.session_id <> p_lock) then
        -- Both sessions before the run, in everybody's order.
        if v_run.session_id < p_lock then
            perform lock_ordered_sessions(array[p_job], true);
        end if;
        select n.order_no, n.head into v_no, v_head
        from number_ordered_runs(array[p_job], array[v_run.tenant_id], array[p_lock], array['skip']) as n;
    end if;

    v_run := procrastinate_hold_run(p_job);
    if v_run.cancel_requested then
        perform procrastinate_finish_job_v1(p_job, 'failed', false);
        if v_no is not null then
            -- It has a place in the new session, but does not come.
            perform advance_sessions(array[p_job], array[v_run.tenant_id], array[p_lock], array[v_no], true);
        end if;
        return;
    end if;
    if v_no is not null then
        update run as r set session_id = p_lock, order_no = v_no, on_failure = 'skip' where r.id = p_job;
        if v_run.order_no is not null then
            perform advance_sessions(
                array[p_job], array[v_run.tenant_id], array[v_run.session_id], array[v_run.order_no], true);
        end if;
    end if;
    perform procrastinate_end_attempt(
        v_run, 'retry', '{"type": "JobFailed", "message": "failed, to be retried; its procrastinate worker logged why"}',
        p_retry_at, jsonb_strip_nulls(jsonb_build_object('priority', p_priority, 'queue', p_queue))::text);
    if not v_head then
        update run as r set state = 'blocked' where r.id = p_job;
    end if;
end
$$;
