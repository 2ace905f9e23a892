-- Counts runs that have just started against their queue's starts_per_period. A period begins with the first start after
-- the last one's end. The caller has locked the queue.
create function count_starts(p_queue text, p_started integer) returns void
language sql
as $$
    update queue as q
    set period_started_at = case when q.period_started_at + q.period > engine_now() then q.period_started_at
                                 else engine_now() end,
        period_starts = p_started + case when q.period_started_at + q.period > engine_now() then q.period_starts else 0 end
    where q.name = p_queue and q.starts_per_period is not null and p_started > 0
$$;
