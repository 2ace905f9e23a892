-- Gives a stock worker one run of a plain task; a row of nulls where there is none. p_queues null: any queue but
-- 'howdah', whose tasks are the engine's own: a stock worker has none of them, and would fail their runs.
-- Workflows are left to Howdah's workers: a stock worker would run them without their checkpoints.
-- A suspect run goes to a worker that runs nothing, and that is given nothing more until it has ended: see claim_suspects.
create function procrastinate_fetch_job_v2(p_queues character varying[], p_worker bigint) returns procrastinate_jobs
language plpgsql
as $$
declare
    v_job procrastinate_jobs;
    v_id bigint;
    v_queues text[];
    v_suspects text[];
begin
    -- The claim locks it too; it is taken first, because a rescue under way makes us wait for it.
    perform from worker as w where w.id = p_worker for key share;
    if exists (select from run as r where r.worker_id = p_worker and r.state = 'running' and r.suspect) then
        return null;
    end if;
    perform from wake_due_runs();

    -- One run a call: in a fixed order of queues, a busy first one would starve the others.
    select array_agg(q.name order by random()) into v_queues
    from queue as q
    where case when p_queues is null then q.name <> 'howdah' else q.name = any (p_queues) end;
    if v_queues is null then
        return null;
    end if;
    -- One fetch at a time, and nothing below waits: beside another's claim the queue would look empty, and a stock worker
    -- that finds nothing sleeps for seconds.
    perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.procrastinate_fetch', 0));
    select array_agg(s.task) into v_suspects
    from (select r.task from run as r where r.queue = any (v_queues) and r.state = 'queued' and r.suspect
          except select t.name from task as t where t.kind = 'workflow') as s;
    if v_suspects is not null and not exists (select from run as r where r.worker_id = p_worker and r.state = 'running') then
        select c.run_id into v_id from claim_suspects(p_worker, v_queues, v_suspects, 1) as c;
    end if;
    if v_id is null then
        select c.run_id into v_id from claim_runs(
            p_worker, v_queues, 1,
            array(select l.task from unnest(v_queues) as q(name), unnest(lane_tasks(q.name)) as l(task)
                  except select t.name from task as t where t.kind = 'workflow')) as c;
    end if;
    select j.* into v_job from procrastinate_live_jobs as j where j.id = v_id;
    return v_job;
end
$$;
