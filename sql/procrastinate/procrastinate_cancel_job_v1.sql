-- Cancels a job that is not running; with p_abort, asks the worker of a running one to stop it.
-- Returns its id, or null where nothing was to be done. p_delete also takes what was cancelled out of history.
create function procrastinate_cancel_job_v1(p_job bigint, p_abort boolean, p_delete boolean) returns bigint
language plpgsql
as $$
declare
    v_run run;
begin
    perform lock_ordered_sessions(array[p_job], true);
    select r.* into v_run from run as r where r.id = p_job for no key update;
    if not found or (v_run.state = 'running' and not p_abort) then
        return null;
    end if;
    perform from cancel_runs(null, array[p_job]);
    if v_run.state = 'running' then
        perform procrastinate_notify('abort_job_requested', p_job, array[v_run.queue]);
    elsif p_delete then
        perform procrastinate_delete_runs(array[p_job]);
    end if;
    return p_job;
end
$$;
