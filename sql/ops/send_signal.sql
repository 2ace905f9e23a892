-- select * from ops.send_signal(1234, 'approval', '"approve"'): tells a run what it waits for, or will wait for.
create function send_signal(p_run bigint, p_name text, p_payload jsonb default 'null')
returns table (run_id bigint, status text)
language sql
as $$
    select s.run_id, s.status from send_signals(null, array[p_run], array[p_name], array[p_payload::text]) as s
$$;
