-- Locks the run that a stock worker means and returns it. Stock clients show no attempt, so this is the fence that is
-- left: the run must be running, and on a stock worker. (That it is another stock worker's cannot be seen.)
-- Its lock, an ordered session, is locked first and waited for: a stock worker says how a job ended only once.
create function procrastinate_hold_run(p_job bigint) returns run
language plpgsql
as $$
declare
    v_run run;
begin
    perform assert_read_committed();
    perform lock_ordered_sessions(array[p_job], true);
    select r.* into v_run from run as r where r.id = p_job for no key update;
    if v_run.state = 'running'
        and exists (select from worker as w where w.id = v_run.worker_id and w.name like 'procrastinate:%') then
        return v_run;
    end if;
    if v_run.id is null and not exists (
        select from run_history as h where h.id = p_job and h.finished_at >= run_created_at(p_job)) then
        raise exception 'job % is unknown', p_job
            using errcode = 'HW002', hint = 'it never was, or was deleted';
    end if;
    raise exception 'job % is not running on a procrastinate worker, it is %', p_job,
        case when v_run.state = 'running' then 'running on a Howdah worker' else coalesce(v_run.state, 'finished') end
        using errcode = 'HW001', hint = 'the attempt is over: its worker was given up, or somebody else ended it';
end
$$;
