-- How many runs of a queue are queued and running, counted up to 100,000 each, and the oldest queued one of those counted.
-- Behind ops.queues: through its indexes only, for the planner, who sees one queue among many, would read the whole table
-- for each.
create function queue_depth(p_queue text, out queued bigint, out first bigint, out running bigint)
language sql
set enable_seqscan = off
set enable_bitmapscan = off
as $$
    select w.queued, w.first, x.running
    from (
        select count(*) as queued, min(o.id) as first
        from (
            (select r.id from run as r where r.queue = p_queue and r.state = 'queued' and r.fresh limit 100000)
            union all
            (select r.id from run as r
             where r.queue = p_queue and r.state = 'queued' and not r.fresh and not r.suspect limit 100000)
            union all
            (select r.id from run as r
             where r.queue = p_queue and r.state = 'queued' and r.suspect and not r.fresh limit 100000)
            limit 100000
        ) as o
    ) as w
    cross join (
        select count(*) as running
        from (select from run as r where r.queue = p_queue and r.state = 'running' limit 100000) as o
    ) as x
$$;
