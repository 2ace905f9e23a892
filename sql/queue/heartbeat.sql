-- A worker says that it lives. alive is false when its peers have given it up: all its attempts are then stale.
--   cancelled  its running runs that somebody asked to cancel
--   suspects   whether a run of its queues waits for a worker that runs nothing else (see claim_suspects), and this worker
--              is to be it: not more of them stop for it than there are such runs, and in each minute others
--   draining   whether it shall claim nothing more, finish, and stop: see drain_worker
--   limited    whether one of its queues has a limit on what runs, so that each end may let another run start
create function heartbeat(p_worker bigint)
returns table (alive boolean, cancelled bigint[], suspects boolean, draining boolean, limited boolean)
language plpgsql
as $$
declare
    v_worker worker;
    v_minute bigint := extract(epoch from engine_now())::bigint / 60;
begin
    update worker as w set heartbeat_at = engine_now() where w.id = p_worker returning w.* into v_worker;
    return query
    select v_worker.id is not null,
           coalesce((select array_agg(r.id) from run as r
                     where r.worker_id = p_worker and r.state = 'running' and r.cancel_requested), '{}'),
           (select count(*) from worker as w
            where w.queues && v_worker.queues
              and hashint8extended(w.id, v_minute) < hashint8extended(p_worker, v_minute))
           < (select count(*)
              from (select from run as r
                    where r.queue = any (v_worker.queues) and r.state = 'queued' and r.suspect limit 100) as waiting),
           coalesce(v_worker.draining, false),
           exists (select from queue as q
                   where q.name = any (v_worker.queues)
                     and coalesce(q.max_running, q.max_running_per_tenant) is not null);
end
$$;
