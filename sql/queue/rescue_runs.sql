-- Finds workers whose heartbeat is older than p_stale and gives their runs back to the queue. Any peer may call it.
-- A worker that was only asleep finds its row gone and every write of its old attempts refused.
-- Stock procrastinate workers say that they live every 10 s, and count as dead after 30: so do theirs here at least.
--   p_alone  how often a run's worker may die while nothing else runs on it before the run has failed
create function rescue_runs(p_stale interval, p_limit integer default 10000, p_notify boolean default true,
                            p_alone integer default 3)
returns table (workers integer, runs integer)
language plpgsql
as $$
declare
    v_workers bigint[];
    v_runs integer;
begin
    perform assert_read_committed();
    select array_agg(s.id) into v_workers
    from (
        select w.id from worker as w
        where w.heartbeat_at < engine_now() - case when w.name like 'procrastinate:%' then greatest(p_stale, interval '30 s')
                                                   else p_stale end
        order by w.id
        for update skip locked
    ) as s;
    if v_workers is null then
        return query select 0, 0;
        return;
    end if;
    v_runs := requeue_workers_runs(v_workers, p_limit, p_notify, p_alone);
    -- A worker's row goes last: while it stays, the next call finds what this one's limit left over.
    delete from worker as w
    where w.id = any (v_workers)
      and not exists (select from run as r where r.worker_id = w.id and r.state = 'running');
    return query select cardinality(v_workers), v_runs;
end
$$;
