-- Part of sweep_queues: gives back running runs whose worker's row is gone, and takes away workers that have been silent
-- for an hour: by then nobody's patience with a silent worker can still hold.
create function sweep_workers(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_seqscan = off
as $$
declare
    v_gone bigint[];
begin
    v_gone := array(
        select distinct r.worker_id from run as r
        where r.state = 'running' and not exists (select from worker as w where w.id = r.worker_id)
        limit p_limit);
    return query
    select s.kind, s.repaired
    from (select 'running run without worker', requeue_workers_runs(v_gone, p_limit, p_notify)
          where v_gone <> '{}') as s(kind, repaired)
    where s.repaired > 0;
    return query
    select 'silent worker', s.workers from rescue_runs(interval '1 hour', p_limit, p_notify) as s where s.workers > 0;
end
$$;
