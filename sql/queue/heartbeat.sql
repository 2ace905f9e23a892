-- A worker says that it lives. alive is false when its peers have given it up: all its attempts are then stale.
--   cancelled  its running runs that somebody asked to cancel
--   suspects   whether a run of its queues waits for a worker that runs nothing else: see claim_suspect
--   draining   whether it shall claim nothing more, finish, and stop: see drain_worker
create function heartbeat(p_worker bigint)
returns table (alive boolean, cancelled bigint[], suspects boolean, draining boolean)
language plpgsql
as $$
declare
    v_worker worker;
begin
    update worker as w set heartbeat_at = engine_now() where w.id = p_worker returning w.* into v_worker;
    return query
    select v_worker.id is not null,
           coalesce((select array_agg(r.id) from run as r
                     where r.worker_id = p_worker and r.state = 'running' and r.cancel_requested), '{}'),
           exists (select from run as r where r.queue = any (v_worker.queues) and r.state = 'queued' and r.suspect),
           coalesce(v_worker.draining, false);
end
$$;
