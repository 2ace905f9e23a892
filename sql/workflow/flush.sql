-- What a worker has to say about its runs, in one transaction: checkpoints, events and outcomes, one an array position.
--   p_kinds     checkpoint | event | outcome
--   p_names     the step | the event's type | the outcome:
--               succeeded, failed, cancelled  the run is over; the body is its output, or its error
--               retry       again at p_times, counted as a failure; the body is the error
--               reschedule  again at p_times, not a failure (an outside API asked to wait)
--               release     again at once, not a failure (the worker is stopping)
--               wait        asleep until something comes (the body: see waits_over), at p_times at the latest; the key
--                           'session' where it waits for events
--   p_bodies    JSON as text
--   p_keys      the step that a step came after, see checkpoint.after | an event's producer key: a repeat changes nothing | a retry's change, as JSON text: {"priority", "queue"}, both
--               optional; the run keeps it
--   p_times     when a step started | when the run is due again
-- status, an item:
--   ok        it is on disk (also when an earlier, interrupted flush of the same attempt had put it there)
--   stale     the attempt is over: another one has the run, or it has ended. Nothing was written.
--   busy      somebody else holds the run or its session. Nothing of this run was written; send it again.
--   full      an event for which its session's window has no room, as a required consumer is too far behind; or what came after
--             such an event of this run. It was not written; send it again later, in that order.
--   repeated  a later attempt finished a step whose output was already on disk. The first output stays.
--   ready     of a wait: what it waits for has come. It was not put to rest, and goes on.
--   cancelled of a wait: somebody asked to cancel the run. It was not put to rest, and should end.
-- Another kind or outcome than these, or a wait that is not understood, is refused (HW016), with the whole batch: written as
-- nothing, it would seem written.
-- Locks in the engine's order: session, run, lane, each sorted; sessions and runs are skipped when held, so that one
-- slow caller stalls nobody else in the batch.
create function flush(
    p_runs bigint[],
    p_attempts integer[],
    p_kinds text[],
    p_names text[],
    p_bodies text[],
    p_keys text[],
    p_times timestamptz[],
    p_notify boolean default true
) returns table (ord bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    c_outcomes constant text[] := '{succeeded, failed, cancelled, retry, reschedule, release, wait}';
    v_unknown text;
    v_now timestamptz := engine_now();
    v_wanted integer;
    v_mine bigint[];
    v_busy bigint[] := '{}';
    v_live bigint[] := p_runs;  -- an item's run; null where nothing may be written
    v_status text[] := array_fill('ok'::text, array[cardinality(p_runs)]);
    v_repeated text[] := '{}';
    v_slot_queues text[];
    v_slot_tenants text[];
    v_again bigint[];
    v_released bigint[];
    v_queues text[];
    v_tenants text[];
    v_tasks text[];
    v_ordered bigint[];
    v_moved text[];  -- queues that retries name
    v_children boolean;
    v_ending bigint[];
    v_free bigint[];  -- those of them whose parents are locked
    v_waits bigint[];
    v_ready bigint[];
    v_cancelled bigint[];
    v_events boolean := 'event' = any (p_kinds);
    v_event_ords integer[];
    v_full integer[];
    v_listens boolean := 'wait' = any (p_names) and 'session' = any (p_keys);
begin
    perform assert_read_committed();
    select format('%s %s', coalesce(i.kind, 'null'), coalesce(i.name, 'null')) into v_unknown
    from unnest(p_kinds, p_names) as i(kind, name)
    where case i.kind when 'checkpoint' then i.name is null
                      when 'event' then i.name is null
                      when 'outcome' then i.name is null or i.name <> all (c_outcomes)
                      else true end
    limit 1;
    if v_unknown is not null then
        raise exception 'an item cannot be written: %', v_unknown
            using errcode = 'HW016', hint = format('write a checkpoint or an event by its name, or an outcome: %s',
                                                   array_to_string(c_outcomes, ', '));
    end if;

    if 'wait' = any (p_names) then
        select coalesce(i.body, 'null') into v_unknown
        from unnest(p_kinds, p_names, p_bodies, p_times) as i(kind, name, body, at)
        where i.kind = 'outcome' and i.name = 'wait' and not coalesce(wait_is_understood(i.body::jsonb, i.at), false)
        limit 1;
        if v_unknown is not null then
            raise exception 'a run cannot wait for this: %', left(v_unknown, 200)
                using errcode = 'HW016', hint = 'write a JSON array such as [{"signal": "approve", "after": 0}]: see waits_over';
        end if;
    end if;

    if 'retry' = any (p_names) then
        select array_remove(array_agg(distinct i.change::jsonb ->> 'queue'), null) into v_moved
        from unnest(p_kinds, p_names, p_keys) as i(kind, name, change)
        where i.kind = 'outcome' and i.name = 'retry' and i.change is not null;
        insert into queue (name) select q from unnest(v_moved) as q order by q on conflict do nothing;
    end if;

    if v_events or v_listens then
        v_busy := lock_run_sessions(array(
            select distinct i.run_id from unnest(p_runs, p_kinds, p_names, p_keys) as i(run_id, kind, name, key)
            where i.kind = 'event' or i.kind = 'outcome' and i.name = 'wait' and i.key = 'session'));
    end if;

    -- Run by run: told by its statistics that hardly any is running, the planner would read them all and compare each with
    -- each. "Running" is said so that no partial index matches.
    with wanted as materialized (
        select distinct run_id, attempt from unnest(p_runs, p_attempts) as i(run_id, attempt)
    )
    select coalesce(array_agg(l.id), '{}'), array_agg(l.id) filter (where l.order_no is not null),
           (select count(*) from wanted), array_agg(l.queue), array_agg(l.tenant_id), bool_or(l.parent_id is not null)
    into v_mine, v_ordered, v_wanted, v_slot_queues, v_slot_tenants, v_children
    from (select * from wanted order by run_id) as i
    cross join lateral (
        select r.id, r.order_no, r.queue, r.tenant_id, r.parent_id
        from run as r
        where r.id = i.run_id and r.attempt = i.attempt and r.claimed_at is not null and r.id <> all (v_busy)
        for no key update of r skip locked
    ) as l;

    -- An ordered run ends under its session's lock. That is taken late, but never waited for.
    if v_ordered is not null then
        v_mine := lock_ordered_sessions(v_mine, false);
    end if;
    if v_children and 'outcome' = any (p_kinds) then
        v_ending := array(select distinct i.run_id from unnest(p_runs, p_kinds) as i(run_id, kind) where i.kind = 'outcome');
        v_free := lock_parents(v_ending);
        v_mine := array(select m from unnest(v_mine) as m where m <> all (v_ending) or m = any (v_free));
    end if;

    if cardinality(v_mine) < v_wanted then
        -- Not all were locked: a neighbour holds the row for a moment, or the attempt is over, perhaps ended by this
        -- very attempt in a flush whose answer was lost with the connection.
        select array_agg(case when r.id = any (v_mine) then 'ok'
                              when r.id is not null then 'busy'
                              when exists (select from run_history as h
                                           where h.id = i.run_id and h.attempt = i.attempt and h.worker_id is not null
                                             and h.finished_at >= run_created_at(i.run_id)) then 'ok'
                              else 'stale' end order by i.ord),
               array_agg(case when r.id = any (v_mine) then i.run_id end order by i.ord)
        into v_status, v_live
        from unnest(p_runs, p_attempts) with ordinality as i(run_id, attempt, ord)
        left join run as r on r.id = i.run_id and r.attempt = i.attempt and r.claimed_at is not null;
    end if;

    -- First, because what follows an event that does not fit is not written either.
    if v_events then
        v_event_ords := array(
            select i.ord from unnest(v_live, p_kinds) with ordinality as i(run_id, kind, ord)
            where i.kind = 'event' and i.run_id is not null order by i.ord);
        v_full := append_run_events(
            array(select v_live[o] from unnest(v_event_ords) as o), array(select p_names[o] from unnest(v_event_ords) as o),
            array(select p_bodies[o] from unnest(v_event_ords) as o), array(select p_keys[o] from unnest(v_event_ords) as o),
            p_notify);
        if v_full <> '{}' then
            v_full := array(select v_event_ords[f] from unnest(v_full) as f);
            select array_agg(case when i.ord = any (v_full) or f.first < i.ord and i.kind <> 'event' then 'full'
                                  else i.status end order by i.ord),
                   array_agg(case when f.first is null or i.ord < f.first then i.run_id end order by i.ord)
            into v_status, v_live
            from unnest(v_live, p_kinds, v_status) with ordinality as i(run_id, kind, status, ord)
            left join (select v_live[o] as run_id, min(o) as first from unnest(v_full) as o group by 1) as f
                   on f.run_id = i.run_id;
        end if;
    end if;

    if 'checkpoint' = any (p_kinds) then
        with written as (
            insert into checkpoint as c (run_id, step, tenant_id, attempt, output, started_at, finished_at, after)
            select i.run_id, i.step, r.tenant_id, i.attempt, i.body::jsonb, coalesce(i.at, v_now), v_now, i.after
            from unnest(v_live, p_attempts, p_kinds, p_names, p_bodies, p_times, p_keys)
                as i(run_id, attempt, kind, step, body, at, after)
            join run as r on r.id = i.run_id
            where i.kind = 'checkpoint'
            on conflict (run_id, step) do update
                set repeats = c.repeats + (c.attempt <> excluded.attempt)::integer
            returning c.run_id, c.step, c.repeats
        )
        select coalesce(array_agg(w.run_id || '/' || w.step), '{}') into v_repeated from written as w where w.repeats > 0;
    end if;

    if 'wait' = any (p_names) then
        select array_agg(i.run_id), waits_over(array_agg(i.run_id), array_agg(i.body::jsonb), array_agg(i.at))
        into v_waits, v_ready
        from unnest(v_live, p_kinds, p_names, p_bodies, p_times) as i(run_id, kind, name, body, at)
        where i.kind = 'outcome' and i.name = 'wait' and i.run_id is not null;
        select array_agg(r.id) into v_cancelled from run as r where r.id = any (v_waits) and r.cancel_requested;
        -- Its deaths are forgotten: it has come through what it had to do, and so is not what killed its workers. One that
        -- dies of what it does next does not come to rest before it does that again.
        update run as r
        set state = 'waiting', run_at = i.at, awaits = i.body::jsonb, fresh = false, suspect = false, deaths = 0,
            deaths_alone = 0, worker_id = null, claimed_at = null
        from unnest(v_live, p_kinds, p_names, p_bodies, p_times) as i(run_id, kind, name, body, at)
        where i.kind = 'outcome' and i.name = 'wait' and r.id = i.run_id
          and r.id <> all (coalesce(v_ready, '{}')) and r.id <> all (coalesce(v_cancelled, '{}'));
    end if;

    if 'outcome' = any (p_kinds) then
        -- Those of runs that only wrote a checkpoint, too: nothing comes of it.
        perform free_slots(v_slot_queues, v_slot_tenants);
        perform finish_runs(
            array_agg(i.run_id), array_agg(i.name),
            array_agg(case when i.name = 'succeeded' then i.body::jsonb end),
            array_agg(case when i.name <> 'succeeded' then i.body::jsonb end), p_notify)
        from unnest(v_live, p_kinds, p_names, p_bodies) as i(run_id, kind, name, body)
        where i.kind = 'outcome' and i.name in ('succeeded', 'failed', 'cancelled') and i.run_id is not null
        having count(*) > 0;

        if p_names && array['retry', 'reschedule', 'release'] then
            with again as (
                update run as r
                set state = case when i.at > v_now then 'scheduled' else 'queued' end,
                    run_at = case when i.at > v_now then i.at end,
                    fresh = false, suspect = false, worker_id = null, claimed_at = null,
                    failures = r.failures + (i.name = 'retry')::integer,
                    priority = coalesce((i.change::jsonb ->> 'priority')::integer, r.priority),
                    queue = coalesce(i.change::jsonb ->> 'queue', r.queue),
                    error = case when i.name = 'retry' then i.body::jsonb else r.error end
                from unnest(v_live, p_kinds, p_names, p_bodies, p_keys, p_times) as i(run_id, kind, name, body, change, at)
                where i.kind = 'outcome' and i.name in ('retry', 'reschedule', 'release')
                  and r.id = i.run_id
                returning r.id, r.queue, r.tenant_id, r.task, r.state, i.name
            )
            select array_agg(a.id) filter (where a.name <> 'release'), array_agg(a.id) filter (where a.name = 'release'),
                   array_agg(a.queue) filter (where a.state = 'queued'),
                   array_agg(a.tenant_id) filter (where a.state = 'queued'),
                   array_agg(a.task) filter (where a.state = 'queued')
            into v_again, v_released, v_queues, v_tenants, v_tasks
            from again as a;
            perform offer_runs(v_queues, v_tenants, v_tasks, p_notify);
            if v_moved is not null and not p_notify then
                -- Who notifies after the commit knows where the runs were, and not where they went.
                perform notify_queues(v_moved);
            end if;
            if v_again is not null then
                perform end_cancelled_runs(v_again, true);
            end if;
            if v_released is not null then
                perform end_cancelled_runs(v_released, false);
            end if;
        end if;
    end if;

    return query
    select i.ord,
           case when v_repeated <> '{}' and i.kind = 'checkpoint' and i.run_id || '/' || i.name = any (v_repeated) then 'repeated'
                when i.kind = 'outcome' and i.name = 'wait' and i.run_id = any (v_cancelled) then 'cancelled'
                when i.kind = 'outcome' and i.name = 'wait' and i.run_id = any (v_ready) then 'ready'
                else i.status end
    from unnest(v_live, p_kinds, p_names, v_status) with ordinality as i(run_id, kind, name, status, ord)
    order by i.ord;
end
$$;
