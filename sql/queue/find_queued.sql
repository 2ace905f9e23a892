-- Ids of runs that have not started and fit a filter, the oldest first, one more than p_limit at most: that one tells that
-- there are more. Few that fit among many that do not cost a read of all live runs.
--   p_filter  {"queue", "task", "tenant", "since", "until" (when it was enqueued), "ids"}, all optional
create function find_queued(p_filter jsonb, p_limit integer) returns bigint[]
language plpgsql
set plan_cache_mode = force_custom_plan
as $$
declare
    v_since bigint;
    v_until bigint;
    v_ids bigint[];
begin
    perform check_filter(p_filter, '{queue,task,tenant,since,until,ids}', p_limit);
    -- A run's id begins with the millisecond of its time.
    v_since := coalesce((extract(epoch from (p_filter ->> 'since')::timestamptz) * 1000)::bigint << 20, 0);
    v_until := coalesce((extract(epoch from (p_filter ->> 'until')::timestamptz) * 1000)::bigint << 20, 9223372036854775807);
    if p_filter ? 'ids' then
        v_ids := array(select i::bigint from jsonb_array_elements_text(p_filter -> 'ids') as i);
    end if;
    return array(
        select r.id from run as r
        where r.state in ('queued', 'scheduled', 'blocked') and r.id >= v_since and r.id < v_until
          and (v_ids is null or r.id = any (v_ids))
          and (p_filter ->> 'queue' is null or r.queue = p_filter ->> 'queue')
          and (p_filter ->> 'task' is null or r.task = p_filter ->> 'task')
          and (p_filter ->> 'tenant' is null or r.tenant_id = p_filter ->> 'tenant')
        order by r.id
        limit p_limit + 1);
end
$$;
