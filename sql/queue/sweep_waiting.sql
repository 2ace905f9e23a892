-- Part of sweep_queues: waiting runs whose wait is over are woken.
create function sweep_waiting(p_limit integer) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_walked bigint[];
    v_over bigint[];
begin
    v_walked := array(
        select r.id from run as r
        where r.state = 'waiting' and r.id > coalesce(nullif((walk_from('waiting', 1))[1], ''), '0')::bigint
        order by r.id
        limit p_limit);
    perform walk_reached('waiting', case when cardinality(v_walked) = p_limit then array[v_walked[p_limit]::text] end);
    -- One that is due is not overlooked yet: workers look for those by themselves.
    v_over := array(
        select r.id from run as r
        where r.id = any (waits_over(v_walked)) and (r.run_at is null or r.run_at > engine_now()));
    if v_over <> '{}' then
        perform wake_waiting(v_over);
        return query select 'waiting run whose wait was over', cardinality(v_over);
    end if;
end
$$;
