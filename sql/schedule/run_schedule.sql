-- Enqueues a run of a schedule now, also of a paused one; its moments stay as they are.
create function run_schedule(p_tenant text, p_name text, p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_schedule schedule;
begin
    select * into v_schedule from schedule as s where s.tenant_id = p_tenant and s.name = p_name;
    if not found then
        raise exception 'schedule % is unknown', quote_literal(p_name) using errcode = 'HW019';
    end if;
    if v_schedule.periodic_id is not null then
        v_schedule.args := v_schedule.args || jsonb_build_object('timestamp', date_part('epoch', engine_now())::bigint);
    end if;
    return query
    select e.run_id, e.status
    from enqueue_run(v_schedule.tenant_id, v_schedule.task, v_schedule.args, p_queue => v_schedule.queue,
                     p_priority => v_schedule.priority, p_unique => v_schedule.unique_key, p_session => v_schedule.session_id,
                     p_order => v_schedule.on_failure, p_notify => p_notify) as e;
end
$$;
