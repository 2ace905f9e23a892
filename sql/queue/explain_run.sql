-- Why a run does not run now, in one sentence, for people: the first reason that holds, of those that a claim would meet.
-- p_tenant null: any tenant's (operators). Counts end at 10,000, and each lookup goes through an index.
create function explain_run(p_tenant text, p_run bigint) returns text
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    c_silent constant interval := '30 s';  -- a worker silent for longer does not count as alive
    v_now timestamptz := engine_now();
    v_run run;
    v_old run_history;
    v_queue queue;
    v_worker worker;
    v_lane lane;
    v_head bigint;
    v_count bigint;
    v_ahead bigint;
begin
    select r.* into v_run from run as r where r.id = p_run and (p_tenant is null or r.tenant_id = p_tenant);
    if not found then
        select h.* into v_old from run_history as h
        where h.id = p_run and h.finished_at >= run_created_at(p_run) and (p_tenant is null or h.tenant_id = p_tenant);
        if not found then
            return format('run %s is unknown: it never was, or its history has been removed', p_run);
        end if;
        return format('run %s %s at %s%s%s', p_run,
                      case v_old.state when 'cancelled' then 'was cancelled' else v_old.state end, v_old.finished_at,
                      ': ' || (v_old.error ->> 'type') || coalesce(': ' || left(v_old.error ->> 'message', 200), ''),
                      case when v_old.state = 'failed' then '; requeue it to bring it back'
                           || case when exists (select from ordered_session as s
                                                where s.tenant_id = v_old.tenant_id and s.session_id = v_old.session_id
                                                  and s.head_id = p_run)
                                   then ', or discard it: its session ' || v_old.session_id || ' waits for it' else '' end
                      end);
    end if;

    case v_run.state
        when 'running' then
            select w.* into v_worker from worker as w where w.id = v_run.worker_id;
            return format('run %s is running, attempt %s, on worker %s (%s) since %s%s%s', p_run, v_run.attempt,
                          v_run.worker_id, coalesce(v_worker.name, 'gone'), v_run.claimed_at,
                          case when v_run.cancel_requested then '; its worker has been asked to stop it' end,
                          case when v_worker.heartbeat_at < v_now - c_silent
                               then '; that worker is silent since ' || v_worker.heartbeat_at
                                    || ': a live one gives its runs back to the queue' end);
        when 'scheduled' then
            return format('run %s is scheduled for %s%s', p_run, v_run.run_at,
                          case when v_run.run_at < v_now - interval '10 s' then ', which has passed: no worker is alive' end);
        when 'blocked' then
            select s.head_id into v_head from ordered_session as s
            where s.tenant_id = v_run.tenant_id and s.session_id = v_run.session_id;
            select h.* into v_old from run_history as h
            where h.id = v_head and h.finished_at >= run_created_at(v_head);
            if found then
                return format('run %s waits in session %s behind run %s, which has %s: requeue that one, or discard it',
                              p_run, v_run.session_id, v_head, v_old.state);
            end if;
            select count(*) into v_count
            from (select from run as r
                  where r.tenant_id = v_run.tenant_id and r.session_id = v_run.session_id and r.state = 'blocked'
                    and r.order_no < v_run.order_no
                  limit 10000) as before;
            return format('run %s waits in session %s behind run %s, which is %s%s', p_run, v_run.session_id, v_head,
                          coalesce((select r.state from run as r where r.id = v_head), 'gone'),
                          case when v_count > 0 then format(', and %s more', v_count) end);
        when 'waiting' then
            return format('run %s waits for %s%s', p_run, (
                              select string_agg(
                                  case when a ? 'signal' then format('the signal %s', a ->> 'signal')
                                                              || coalesce(' (' || (select string_agg(c, ', ') from jsonb_array_elements_text(a -> 'choices') as c) || ')', '')
                                       when a ? 'children' then format('%s children of step %s',
                                                                       (select count(*) from run as c
                                                                        where c.parent_id = p_run
                                                                          and c.parent_step = a ->> 'children'),
                                                                       a ->> 'children')
                                       when a ? 'events' then format('events of session %s after number %s',
                                                                     v_run.session_id, a ->> 'events')
                                       else format('the end of step %s', a ->> 'sleep') end, ', or ')
                              from jsonb_array_elements(v_run.awaits) as a),
                          ', until ' || v_run.run_at || ' at the latest');
        when 'queued' then
            null;
    end case;

    select q.* into v_queue from queue as q where q.name = v_run.queue;
    if v_queue.paused then
        return format('run %s is queued, and its queue %s is paused', p_run, v_run.queue);
    end if;
    if exists (select from tenant as t where t.id = v_run.tenant_id and t.paused) then
        return format('run %s is queued, and its tenant %s is paused', p_run, v_run.tenant_id);
    end if;
    if exists (select from task as t where t.name = v_run.task and t.paused) then
        return format('run %s is queued, and its task %s is paused', p_run, v_run.task);
    end if;

    -- Stock procrastinate workers say neither queues nor tasks: one of them may serve any.
    if not exists (select from worker as w
                   where w.heartbeat_at >= v_now - c_silent and not w.draining
                     and (w.queues = '{}' or v_run.queue = any (w.queues))) then
        return format('run %s is queued, and no live worker serves its queue %s', p_run, v_run.queue);
    end if;
    if not exists (select from worker as w
                   where w.heartbeat_at >= v_now - c_silent and not w.draining
                     and (w.queues = '{}' or v_run.queue = any (w.queues))
                     and (w.tasks = '{}' or v_run.task = any (w.tasks))) then
        return format('run %s is queued, and of the live workers that serve its queue %s none has its task %s', p_run,
                      v_run.queue, v_run.task);
    end if;

    select count(*) into v_count
    from (select from run as r where r.queue = v_run.queue and r.state = 'running' limit v_queue.max_running) as slot;
    if v_count >= v_queue.max_running then
        return format('run %s is queued, and its queue %s has %s of %s runs running', p_run, v_run.queue, v_count,
                      v_queue.max_running);
    end if;
    if v_queue.starts_per_period = 0 then
        return format('run %s is queued, and its queue %s may start none: starts_per_period is 0', p_run, v_run.queue);
    end if;
    if v_queue.period_starts >= v_queue.starts_per_period and v_queue.period_started_at + v_queue.period > v_now then
        return format('run %s is queued, and its queue %s has used up its %s starts until %s', p_run, v_run.queue,
                      v_queue.starts_per_period, v_queue.period_started_at + v_queue.period);
    end if;
    select count(*) into v_count
    from (select from run as r
          where r.queue = v_run.queue and r.tenant_id = v_run.tenant_id and r.state = 'running'
          limit v_queue.max_running_per_tenant) as slot;
    if v_count >= v_queue.max_running_per_tenant then
        return format('run %s is queued, and its tenant %s has %s of %s runs running in queue %s', p_run, v_run.tenant_id,
                      v_count, v_queue.max_running_per_tenant, v_run.queue);
    end if;
    if v_run.suspect then
        return format('run %s died with its worker %s times, and waits for a worker that runs only such runs', p_run,
                      v_run.deaths);
    end if;

    select l.* into v_lane from lane as l
    where l.queue = v_run.queue and l.tenant_id = v_run.tenant_id and l.task = v_run.task;
    select count(*) into v_count
    from (select from run as r
          where r.queue = v_run.queue and r.tenant_id = v_run.tenant_id and r.task = v_run.task and r.state = 'queued'
            and r.fresh and (-r.priority, r.id) < (-v_run.priority, case when v_run.fresh then v_run.id else 0 end)
          limit 10000) as before;
    select v_count + count(*) into v_count
    from (select from run as r
          where r.queue = v_run.queue and r.tenant_id = v_run.tenant_id and r.task = v_run.task and r.state = 'queued'
            and not r.fresh and not r.suspect
            and (-r.priority, r.id) < (-v_run.priority, case when v_run.fresh then 9223372036854775807 else v_run.id end)
          limit 10000) as before;
    select count(distinct l.tenant_id) into v_ahead from lane as l
    where l.queue = v_run.queue and not l.parked and l.virtual_time < v_lane.virtual_time and l.tenant_id <> v_run.tenant_id;
    return format('run %s is queued as number %s of its tenant''s runs of task %s in queue %s, with %s tenants ahead of its own',
                  p_run, v_count + 1, v_run.task, v_run.queue, v_ahead);
end
$$;
