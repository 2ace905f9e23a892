-- select * from ops.cancel_run(1234): at once where it is not running, else its worker is asked to stop it.
create function cancel_run(p_run bigint, p_reason text default 'cancelled by an operator')
returns table (run_id bigint, status text)
language sql
as $$
    select * from cancel_runs(null, array[p_run], p_reason)
$$;
