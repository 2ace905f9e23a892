-- A worker says that it lives. alive is false when its peers have given it up: all its attempts are then stale.
-- cancelled: its running runs that somebody asked to cancel.
create function heartbeat(p_worker bigint) returns table (alive boolean, cancelled bigint[])
language plpgsql
as $$
declare
    v_alive boolean;
begin
    update worker set heartbeat_at = engine_now() where id = p_worker;
    v_alive := found;
    return query
    select v_alive,
           coalesce((select array_agg(r.id) from run as r
                     where r.worker_id = p_worker and r.state = 'running' and r.cancel_requested), '{}');
end
$$;
