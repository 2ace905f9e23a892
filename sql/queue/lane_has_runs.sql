-- Whether a lane has a run for claims to take. Looks from its floor on, as they do: what a floor hides by mistake, the
-- sweep brings back with a lane of its own.
create function lane_has_runs(p_lane lane) returns boolean
language plpgsql volatile
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
begin
    return exists (
            select from run as r
            where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
              and r.state = 'queued' and not r.fresh and not r.suspect)
        or exists (
            select from run as r
            where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
              and r.state = 'queued' and r.fresh
              and (-r.priority, r.id) > (coalesce(-p_lane.floor_priority, -2147483648), coalesce(p_lane.floor_id, 0)))
        or exists (
            select from run as r
            where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
              and r.state = 'queued' and r.fresh and -r.priority < -p_lane.floor_priority);
end
$$;
