-- select * from ops.set_limit('mail', 'max_running', 20): one limit of a queue; null removes it. Limits: max_running,
-- max_running_per_tenant, starts_per_period, max_queued, max_queued_per_tenant.
--   p_period_s  of starts_per_period: the seconds in which so many may start; null: as it is
create function set_limit(p_queue text, p_limit text, p_value numeric, p_period_s numeric default null)
returns table (queue text, max_running integer, max_running_per_tenant integer, starts_per_period integer, period interval,
               max_queued integer, max_queued_per_tenant integer)
language sql
as $$
    select q.name, q.max_running, q.max_running_per_tenant, q.starts_per_period, q.period, q.max_queued,
           q.max_queued_per_tenant
    from set_queue_limits(
        p_queue,
        jsonb_build_object(p_limit, trim_scale(p_value))
        || case when p_limit = 'starts_per_period' and p_value is null then '{"period_s": null}'
                when p_period_s is not null then jsonb_build_object('period_s', p_period_s)
                else '{}' end) as q
$$;
