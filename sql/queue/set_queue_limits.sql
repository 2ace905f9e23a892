-- Changes a queue's limits, which hold from the next claim or enqueue on; makes the queue where there is none.
--   p_limits  {"max_running", "max_running_per_tenant", "starts_per_period", "period_s", "max_queued",
--             "max_queued_per_tenant"}: a number sets, null removes, what is absent stays
create function set_queue_limits(p_queue text, p_limits jsonb) returns queue
language plpgsql
as $$
declare
    c_known constant text[] := array['max_running', 'max_running_per_tenant', 'starts_per_period', 'period_s', 'max_queued',
                                     'max_queued_per_tenant'];
    v_key text;
    v_value jsonb;
    v_queue queue;
begin
    for v_key, v_value in select * from jsonb_each(p_limits) loop
        if v_key <> all (c_known) then
            raise exception 'there is no limit %', quote_literal(v_key)
                using errcode = 'HW016', hint = 'use ' || array_to_string(c_known, ', ');
        end if;
        if v_key = 'period_s' and v_value <> 'null' then
            if jsonb_typeof(v_value) <> 'number' or v_value::numeric not between 0.001 and 31536000 then
                raise exception 'period_s is %', v_value
                    using errcode = 'HW016', hint = 'give seconds, from 0.001 to a year';
            end if;
        elsif v_value <> 'null'
            and (jsonb_typeof(v_value) <> 'number' or v_value::numeric not between 0 and 2147483647
                 or v_value::numeric <> trunc(v_value::numeric)) then
            raise exception 'the limit % is %', v_key, v_value
                using errcode = 'HW016', hint = 'give a whole number from 0 on, or null for none';
        end if;
    end loop;
    perform check_queue_name(p_queue);
    insert into queue (name) values (p_queue) on conflict do nothing;
    select q.* into v_queue from queue as q where q.name = p_queue for no key update;
    v_queue := jsonb_populate_record(
        v_queue,
        (p_limits - 'period_s')
        || case when p_limits ? 'period_s'
                then jsonb_build_object('period', case when p_limits ->> 'period_s' is not null
                                                       then (p_limits ->> 'period_s') || ' seconds' end)
                else '{}' end);
    if (v_queue.starts_per_period is null) <> (v_queue.period is null) then
        raise exception 'starts_per_period % and a period of % do not belong together',
            coalesce(v_queue.starts_per_period::text, 'null'), coalesce(v_queue.period::text, 'null')
            using errcode = 'HW016', hint = 'set both starts_per_period and period_s, or remove both';
    end if;
    update queue as q
    set max_running = v_queue.max_running, max_running_per_tenant = v_queue.max_running_per_tenant,
        starts_per_period = v_queue.starts_per_period, period = v_queue.period, max_queued = v_queue.max_queued,
        max_queued_per_tenant = v_queue.max_queued_per_tenant
    where q.name = p_queue
    returning q.* into v_queue;
    -- What was counted was counted up to the old caps.
    delete from queue_depth as d where d.queue = p_queue;
    perform unpark_queue(p_queue);
    perform notify_queues(array[p_queue]);
    return v_queue;
end
$$;
