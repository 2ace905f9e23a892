-- Locks the p_limit lanes of a queue and of these tasks with the least virtual time, but those in p_passed
-- ('tenant/task'); their tenants, tasks and twins in that order, or nulls where there is no lane. A tenant's lanes go together,
-- or one with many tasks would have its turn many times. Lanes that another claim holds are skipped; where it holds them
-- all, this one waits for one a moment: with one tenant alone, two workers would otherwise find the queue empty in turns.
create function lock_lanes(p_queue text, p_tasks text[], p_passed text[], p_limit integer,
                           out tenants text[], out tasks text[], out twins integer[])
language plpgsql
set enable_seqscan = off
set enable_hashjoin = off
set enable_mergejoin = off
as $$
begin
    for v_try in 1..2 loop
        with least as materialized (
            select h.tenant_id, h.task, h.twin, h.virtual_time
            from unnest(p_tasks) as t(task)
            cross join lateral (
                select l.tenant_id, l.task, l.twin, l.virtual_time
                from lane as l
                where l.queue = p_queue and l.task = t.task and not l.parked
                  and (p_passed = '{}' or l.tenant_id || '/' || l.task <> all (p_passed))
                order by l.virtual_time
                limit p_limit
                for no key update skip locked
            ) as h
            order by h.virtual_time
            limit p_limit
        ),
        siblings as materialized (
            select l.tenant_id, l.task, l.twin, l.virtual_time
            from (select distinct e.tenant_id from least as e) as e
            join lane as l on l.queue = p_queue and l.tenant_id = e.tenant_id
            where l.task = any (p_tasks) and not l.parked
              and not exists (select from least as f
                              where f.tenant_id = l.tenant_id and f.task = l.task and f.twin = l.twin)
              and (p_passed = '{}' or l.tenant_id || '/' || l.task <> all (p_passed))
            for no key update of l skip locked
        )
        select array_agg(e.tenant_id order by e.virtual_time), array_agg(e.task order by e.virtual_time),
               array_agg(e.twin order by e.virtual_time)
        into tenants, tasks, twins
        from (select * from least union all select * from siblings) as e;
        exit when tenants is not null or v_try = 2;
        begin
            -- Longer than a claim takes, shorter than anybody would notice.
            set local lock_timeout = '20ms';
            perform from lane as l
            where l.queue = p_queue and l.task = any (p_tasks) and not l.parked
              and (p_passed = '{}' or l.tenant_id || '/' || l.task <> all (p_passed))
            limit 1
            for no key update;
            exit when not found;
            set local lock_timeout = 0;
        exception when lock_not_available then
            return;
        end;
    end loop;
end
$$;
