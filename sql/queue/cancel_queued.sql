-- Cancels runs that have not started, those that fit a filter, p_limit at most, the oldest first: see find_queued and
-- cancel_runs. requested: they were started meanwhile, and their workers are asked. more: there are others; call it again.
create function cancel_queued(p_filter jsonb default '{}', p_limit integer default 1000, p_reason text default 'cancelled',
                              p_notify boolean default true)
returns table (cancelled integer, requested integer, more boolean)
language plpgsql
as $$
declare
    v_runs bigint[] := find_queued(p_filter, p_limit);
begin
    return query
    select count(*) filter (where s.status = 'cancelled')::integer, count(*) filter (where s.status = 'requested')::integer,
           cardinality(v_runs) > p_limit
    from cancel_runs(p_filter ->> 'tenant', v_runs[1:p_limit], p_reason, p_notify) as s;
end
$$;
