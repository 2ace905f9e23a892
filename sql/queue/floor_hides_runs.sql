-- Whether a run waits below its lane's floor, where no claim looks. That happens when a clock stepped back and made an
-- older id, or when claims went past a run while others held its row, who then left it queued after all.
create function floor_hides_runs(p_lane lane) returns boolean
language sql stable
set enable_seqscan = off
as $$
    select exists (
        select from run as r
        where r.queue = p_lane.queue and r.tenant_id = p_lane.tenant_id and r.task = p_lane.task
          and r.state = 'queued' and r.fresh
          and -r.priority = -p_lane.floor_priority and r.id <= p_lane.floor_id)
$$;
