-- A stock worker ends its run: succeeded, failed or aborted. p_delete also takes it out of history.
create function procrastinate_finish_job_v1(p_job bigint, p_status procrastinate_job_status, p_delete boolean)
returns void
language plpgsql
as $$
declare
    v_run run;
begin
    if p_status not in ('succeeded', 'failed', 'aborted') then
        raise exception 'a job cannot end as %', p_status
            using errcode = 'HW016', hint = 'use succeeded, failed or aborted';
    end if;
    v_run := procrastinate_hold_run(p_job);
    perform procrastinate_end_attempt(
        v_run, case p_status when 'aborted' then 'cancelled' else p_status::text end,
        case p_status
            when 'failed' then '{"type": "JobFailed", "message": "failed; its procrastinate worker logged why"}'
            when 'aborted' then '{"type": "JobAborted", "message": "aborted by its procrastinate worker"}' end);
    if v_run.order_no is not null then
        -- The next job of its lock may wait for nothing else; stock workers hear of new jobs only.
        perform procrastinate_notify('job_inserted', p_job, array[v_run.queue]);
    end if;
    if p_delete then
        perform procrastinate_delete_runs(array[p_job]);
    end if;
end
$$;
