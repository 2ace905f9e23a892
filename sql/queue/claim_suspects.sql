-- Claims suspect runs, for a worker that runs nothing else until they have ended: as many as their deaths let run together
-- (see suspect_company), p_limit at most. Limits and pauses hold for them as for any other. Answers as claim_runs does.
create function claim_suspects(p_worker bigint, p_queues text[], p_tasks text[] default null, p_limit integer default 50)
returns table (run_id bigint, tenant_id text, queue text, task text, args text,
               attempt integer, failures integer, session_id text, retry text, deadline timestamptz)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_queue text;
    v_room integer;
    v_company integer;
    v_cap integer;
    v_held boolean := false;
begin
    perform assert_read_committed();
    perform from worker as w where w.id = p_worker for key share;
    if not found then
        raise exception 'worker % is not registered, or its peers have given it up', p_worker
            using errcode = 'HW001', hint = 'register again: select * from register_worker(...)';
    end if;
    foreach v_queue in array p_queues loop
        select suspect_company(r.deaths) into v_company
        from run as r
        where r.queue = v_queue and r.state = 'queued' and r.suspect and (p_tasks is null or r.task = any (p_tasks))
        order by r.id
        limit 1;
        continue when not found;
        select q.room, q.per_tenant, q.held or v_held into v_room, v_cap, v_held
        from lock_queue(v_queue, least(v_company, p_limit), not v_held) as q;
        continue when v_room <= 0;
        if v_cap is not null then
            v_room := 1;  -- counted below for one
        end if;
        return query
        with heads as (
            select r.id from run as r
            where r.queue = v_queue and r.state = 'queued' and r.suspect
              and suspect_company(r.deaths) = v_company
              and (p_tasks is null or r.task = any (p_tasks))
              and not exists (select from task as k where k.name = r.task and k.paused)
              and not exists (select from tenant as t where t.id = r.tenant_id and t.paused)
              and (v_cap is null
                   or (select count(*) from run as o
                       where o.queue = v_queue and o.tenant_id = r.tenant_id and o.state = 'running') < v_cap)
            order by r.id
            limit v_room
            for no key update skip locked
        )
        update run as r
        set state = 'running', attempt = r.attempt + 1, worker_id = p_worker, claimed_at = engine_now(), run_at = null,
            unique_key = null
        from heads as h
        where r.id = h.id
        returning r.id, r.tenant_id, r.queue, r.task, r.args::text, r.attempt, r.failures, r.session_id, r.retry::text,
                  r.deadline;
        get diagnostics v_room = row_count;
        if v_room > 0 then
            perform count_starts(v_queue, v_room);
            return;
        end if;
    end loop;
end
$$;
