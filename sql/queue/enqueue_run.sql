-- One run, for psql and for other languages: select * from enqueue_run('acme', 'invoice.send', '{"id": 7}').
-- The parameters are those of enqueue_runs; what that answers as a status is raised here.
create function enqueue_run(
    p_tenant text,
    p_task text,
    p_args jsonb default '{}',
    p_queue text default null,
    p_priority integer default 0,
    p_run_at timestamptz default null,
    p_session text default null,
    p_key text default null,
    p_unique text default null,
    p_order text default null,
    p_deadline timestamptz default null,
    p_retry jsonb default null,
    p_window interval default null,
    p_notify boolean default true,
    p_traceparent text default null
) returns table (run_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_id bigint;
    v_status text;
begin
    select e.run_id, e.status into v_id, v_status
    from enqueue_runs(array[p_tenant], array[p_task], array[p_args::text], array[p_queue], array[p_priority],
                      array[p_run_at], array[p_session], array[p_key], array[p_unique], array[p_order],
                      array[p_deadline], array[p_retry::text], array[p_window], p_notify,
                      p_traceparents => array[p_traceparent]) as e;
    case v_status
        when 'unknown_tenant' then
            raise exception 'tenant % is unknown', quote_literal(p_tenant)
                using errcode = 'HW009', hint = 'create it first: select * from create_tenant(...)';
        when 'conflict' then
            raise exception 'idempotency key % was used for another task or other arguments', quote_literal(p_key)
                using errcode = 'HW003', hint = 'use a new key for a new request';
        when 'not_unique' then
            raise exception 'a run with the uniqueness key % is already queued', quote_literal(p_unique)
                using errcode = 'HW005', hint = 'wait until it starts, or leave the key out';
        when 'queue_full' then
            raise exception 'the queue of task % has as many queued runs as it may', quote_literal(p_task)
                using errcode = 'HW018', hint = 'try again in a second, or raise max_queued: select * from ops.queues';
        else
            return query select v_id, v_status;
    end case;
end
$$;
