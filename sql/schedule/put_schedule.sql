-- Makes a schedule, or gives the one of this name another definition; whether it is paused stays.
--   p_time_zone    an IANA name, as in pg_timezone_names
--   p_missed       what becomes of moments that pass while no scheduler lives: 'last' or 'skip'
--   p_queue        null: the queue that the task's workers registered
--   p_unique       uniqueness key of its runs: a moment brings no run while the one before is still queued
--   p_periodic_id  for @app.periodic
--   p_session      its runs' session
--   p_order        its runs are ordered ones of that session, and what the failure of one does to those behind it: 'skip' or
--                  'block'; null: they do not wait for one another
-- With the same cron and time zone its next moment stays as well; otherwise it counts anew from now.
create function put_schedule(
    p_tenant text,
    p_name text,
    p_task text,
    p_cron text,
    p_args jsonb default '{}',
    p_time_zone text default 'UTC',
    p_missed text default 'last',
    p_queue text default null,
    p_priority integer default 0,
    p_unique text default null,
    p_periodic_id text default null,
    p_session text default null,
    p_order text default null
) returns table (created boolean)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_name constant text := '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$';
    v_now timestamptz := engine_now();
    v_created boolean;
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    if p_name is null or p_name !~ c_name then
        raise exception '% is not a name for a schedule', coalesce(quote_literal(p_name), 'null')
            using errcode = 'HW020', hint = 'use up to 128 letters, digits and . _ : - beginning with a letter or digit';
    end if;
    if p_queue !~ c_name then
        raise exception 'queue % is not a name', quote_literal(p_queue)
            using errcode = 'HW020', hint = 'use up to 128 letters, digits and . _ : - beginning with a letter or digit';
    end if;
    if p_time_zone <> 'UTC' and not exists (select from pg_timezone_names where name = p_time_zone) then
        raise exception 'time zone % is unknown', quote_literal(p_time_zone)
            using errcode = 'HW020', hint = 'use an IANA name such as Europe/Berlin: see pg_timezone_names';
    end if;
    if p_missed not in ('last', 'skip') then
        raise exception 'missed % is neither ''last'' nor ''skip''', quote_literal(p_missed) using errcode = 'HW020';
    end if;
    if p_order is not null and (p_session is null or p_order not in ('skip', 'block')) then
        raise exception 'order % without a session, or neither ''skip'' nor ''block''', quote_literal(p_order)
            using errcode = 'HW020', hint = 'ordered runs are a session''s: name it, and what a failure does to those behind';
    end if;
    if jsonb_typeof(p_args) <> 'object' then
        raise exception 'the arguments are a JSON %, not an object', jsonb_typeof(p_args)
            using errcode = 'HW020', hint = 'write {"name": value}';
    end if;
    if length(p_cron) > 200 then
        raise exception 'the cron expression has % characters, the limit is 200', length(p_cron) using errcode = 'HW020';
    end if;

    insert into schedule as s (tenant_id, name, task, args, queue, priority, unique_key, cron, time_zone, missed,
                               periodic_id, session_id, on_failure, counts_from, created_at, updated_at)
    values (p_tenant, p_name, p_task, p_args, p_queue, p_priority, p_unique, p_cron, p_time_zone, p_missed,
            p_periodic_id, p_session, p_order, v_now, v_now, v_now)
    on conflict (tenant_id, name) do update
    set task = excluded.task, args = excluded.args, queue = excluded.queue, priority = excluded.priority,
        unique_key = excluded.unique_key, cron = excluded.cron, time_zone = excluded.time_zone,
        missed = excluded.missed, periodic_id = excluded.periodic_id, session_id = excluded.session_id,
        on_failure = excluded.on_failure, error = null, updated_at = v_now,
        counts_from = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone)
                                and (s.next_at is not null or s.error is null)
                           then s.counts_from else v_now end,
        next_at = case when (s.cron, s.time_zone) = (excluded.cron, excluded.time_zone) then s.next_at end
    -- Workers put what @app.periodic made at each start: what is as it was is not written again.
    where (s.task, s.args, s.queue, s.priority, s.unique_key, s.cron, s.time_zone, s.missed, s.periodic_id,
           s.session_id, s.on_failure)
        is distinct from (excluded.task, excluded.args, excluded.queue, excluded.priority, excluded.unique_key,
                          excluded.cron, excluded.time_zone, excluded.missed, excluded.periodic_id, excluded.session_id,
                          excluded.on_failure)
        or s.error is not null
    returning s.xmax = 0 into v_created;
    return query select coalesce(v_created, false);
end
$$;
