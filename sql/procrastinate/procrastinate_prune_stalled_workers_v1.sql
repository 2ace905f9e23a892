-- Stock workers do this as they start: removes stock workers silent for longer than this, and returns their ids.
-- Their runs go back to the queue, where procrastinate would leave them for somebody to retry.
create function procrastinate_prune_stalled_workers_v1(p_seconds double precision) returns table (worker_id bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_runs constant integer := 10000;  -- bounds one call; what is more waits for the next start or rescue
    v_workers bigint[];
begin
    select array_agg(s.id) into v_workers
    from (
        select w.id from worker as w
        where w.name like 'procrastinate:%' and w.heartbeat_at < engine_now() - make_interval(secs => p_seconds)
        order by w.id
        for update skip locked
    ) as s;
    perform requeue_workers_runs(v_workers, c_runs, true);
    return query
    delete from worker as w
    where w.id = any (v_workers)
      and not exists (select from run as r where r.worker_id = w.id and r.state = 'running')
    returning w.id;
end
$$;
