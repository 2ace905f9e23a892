-- Schedules whose moment has come, and those whose next moment is not worked out yet; now_at is the engine's clock.
-- Only a look: fire_schedules decides who fires what.
create function due_schedules(p_limit integer default 100)
returns table (tenant_id text, name text, cron text, time_zone text, missed text, counts_from timestamptz,
               next_at timestamptz, now_at timestamptz)
language sql
as $$
    with clock as materialized (select engine_now() as now_at),
    new as (
        select s.* from schedule as s
        where s.next_at is null and s.error is null and not s.paused
        limit p_limit
    ),
    due as (
        select s.* from schedule as s
        where s.next_at <= (select c.now_at from clock as c) and not s.paused
        order by s.next_at
        limit p_limit
    )
    select d.tenant_id, d.name, d.cron, d.time_zone, d.missed, d.counts_from, d.next_at, c.now_at
    from (select * from due union all select * from new) as d, clock as c
    limit p_limit
$$;
