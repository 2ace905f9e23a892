-- Gives failed runs up, those that fit a filter, p_limit at most, the longest failed first: see find_failed and
-- discard_runs. more: there are others; call it again.
create function discard_failed(p_filter jsonb default '{}', p_limit integer default 1000, p_notify boolean default true)
returns table (discarded integer, more boolean)
language plpgsql
as $$
declare
    v_runs bigint[] := find_failed(p_filter, p_limit);
begin
    return query
    select count(*) filter (where s.status = 'discarded')::integer, cardinality(v_runs) > p_limit
    from discard_runs(p_filter ->> 'tenant', v_runs[1:p_limit], p_notify) as s;
end
$$;
