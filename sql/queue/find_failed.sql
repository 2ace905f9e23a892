-- Ids of failed runs that fit a filter, the longest failed first, one more than p_limit at most: that one tells that there
-- are more. It reads failed runs only, through an index; ids alone are looked up.
--   p_filter  {"queue", "task", "tenant", "error" (its type), "since", "until" (when it failed), "ids"}, all optional
create function find_failed(p_filter jsonb, p_limit integer) returns bigint[]
language plpgsql
set plan_cache_mode = force_custom_plan
as $$
declare
    v_since timestamptz;
    v_until timestamptz;
    v_ids bigint[];
begin
    perform check_filter(p_filter, '{queue,task,tenant,error,since,until,ids}', p_limit);
    v_since := coalesce((p_filter ->> 'since')::timestamptz, '-infinity');
    v_until := coalesce((p_filter ->> 'until')::timestamptz, 'infinity');
    if p_filter ? 'ids' then
        v_ids := array(select i::bigint from jsonb_array_elements_text(p_filter -> 'ids') as i);
        v_since := greatest(v_since, (select run_created_at(min(i)) from unnest(v_ids) as i));
    end if;
    return array(
        select h.id from run_history as h
        where h.state = 'failed' and h.finished_at >= v_since and h.finished_at < v_until
          and (v_ids is null or h.id = any (v_ids))
          and (p_filter ->> 'queue' is null or h.queue = p_filter ->> 'queue')
          and (p_filter ->> 'task' is null or h.task = p_filter ->> 'task')
          and (p_filter ->> 'tenant' is null or h.tenant_id = p_filter ->> 'tenant')
          and (p_filter ->> 'error' is null or h.error ->> 'type' = p_filter ->> 'error')
        order by h.finished_at
        limit p_limit + 1);
end
$$;
