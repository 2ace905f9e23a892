-- Deletes what is older than p_keep from the default partitions, where days land that nobody prepared: p_limit rows of
-- each at most. Checkpoints and signals stay as long as their run is live or in history. Returns how many rows went.
create function trim_default_partitions(p_keep interval, p_limit integer default 10000) returns table (trimmed integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_before timestamptz := date_trunc('day', least(engine_now() - p_keep, engine_now()), 'utc');
    v_first_id bigint := first_run_id((v_before at time zone 'utc')::date);
    v_runs integer;
    v_checkpoints integer;
    v_signals integer;
begin
    -- Nothing finishes before the time in its id: what is old enough has a lesser one.
    delete from run_history_default as h
    using (select o.id, o.finished_at from run_history_default as o
           where o.id < v_first_id and o.finished_at < v_before
           order by o.id
           limit p_limit
           for update skip locked) as o
    where h.id = o.id and h.finished_at = o.finished_at;
    get diagnostics v_runs = row_count;

    delete from checkpoint_default as c
    using (select o.run_id, o.step from checkpoint_default as o
           where o.run_id < v_first_id
             and not exists (select from run as r where r.id = o.run_id)
             and not exists (select from run_history as h
                             where h.id = o.run_id and h.finished_at >= run_created_at(o.run_id))
           order by o.run_id
           limit p_limit
           for update skip locked) as o
    where c.run_id = o.run_id and c.step = o.step;
    get diagnostics v_checkpoints = row_count;

    delete from signal_default as s
    using (select o.run_id, o.name, o.no from signal_default as o
           where o.run_id < v_first_id
             and not exists (select from run as r where r.id = o.run_id)
             and not exists (select from run_history as h
                             where h.id = o.run_id and h.finished_at >= run_created_at(o.run_id))
           order by o.run_id
           limit p_limit
           for update skip locked) as o
    where s.run_id = o.run_id and s.name = o.name and s.no = o.no;
    get diagnostics v_signals = row_count;
    return query select v_runs + v_checkpoints + v_signals;
end
$$;
