-- Those of these runs whose code has begun, is not under way, and may have something to tidy up: workflows only, as other
-- tasks begin anew on each attempt. Not one for which its turn in its ordered session has yet to come. The caller holds
-- their locks.
create function runs_to_tidy_up(p_runs bigint[]) returns bigint[]
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select coalesce(array_agg(r.id order by r.id), '{}')
    from run as r
    where r.id = any (p_runs)
      and (r.state = 'waiting'
           or r.state in ('queued', 'scheduled') and r.attempt > 0
              and exists (select from task as k where k.name = r.task and k.kind = 'workflow'))
$$;
