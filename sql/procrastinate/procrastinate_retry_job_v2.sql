-- Runs a job again at p_retry_at: one that its stock worker has just failed, or one that failed for good.
-- A running job that was asked to abort fails instead. New priority, queue and lock: null leaves them as they are.
create function procrastinate_retry_job_v2(
    p_job bigint,
    p_retry_at timestamptz,
    p_priority integer,
    p_queue character varying,
    p_lock character varying
) returns void
language plpgsql
as $$
begin
    insert into queue (name) select p_queue where p_queue is not null on conflict do nothing;
    if exists (select from run_history as h
               where h.id = p_job and h.finished_at >= run_created_at(p_job) and h.state = 'failed') then
        perform procrastinate_retry_failed_job(p_job, p_retry_at, p_priority, p_queue, p_lock);
    else
        perform procrastinate_retry_running_job(p_job, p_retry_at, p_priority, p_queue, p_lock);
    end if;
    perform notify_queues(array(select r.queue from run as r where r.id = p_job));
    perform procrastinate_notify('job_inserted', p_job, array(select r.queue from run as r where r.id = p_job));
end
$$;
