-- Sends signals to runs, one an array position: a name, a JSON payload as text, and a key that makes a repeat harmless
-- (null: none). One that is sent before its run awaits it waits for the run.
-- p_tenant null: any tenant's (operators). status: sent | existing (the key was sent to the run before, with the same name and
--   payload) | conflict (with others) | finished | unknown | not_a_choice (the run waits for it, and this payload is none of
--   its choices); a bad item fails alone.
create function send_signals(p_tenant text, p_runs bigint[], p_names text[], p_payloads text[],
                             p_keys text[] default null)
returns table (ord bigint, run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_live bigint[];  -- an item's run; null where it has none
    v_status text[];
begin
    perform assert_read_committed();
    -- Run by run, an item each: joined as sets afterwards, each item was compared with each run.
    select array_agg(l.id order by i.ord) into v_live
    from (select * from unnest(p_runs) with ordinality as i(run_id, ord) order by i.run_id) as i
    left join lateral (
        select r.id from run as r
        where r.id = i.run_id and (p_tenant is null or r.tenant_id = p_tenant)
        for no key update
    ) as l on true;

    -- In a statement of its own: it sees what was sent before the locks were taken.
    with item as materialized (
        select i.run_id, i.name, i.payload::jsonb as payload, i.key, i.ord, r.id is not null as live, r.tenant_id,
               r.state = 'waiting' and exists (
                   select from jsonb_array_elements(r.awaits) as a
                   where a ->> 'signal' = i.name and a ? 'choices'
                     and not coalesce(
                         a -> 'choices' ? case when jsonb_typeof(i.payload::jsonb) = 'object' then i.payload::jsonb ->> 'choice'
                                               else i.payload::jsonb #>> '{}' end, false)) as no_choice,
               s.run_id is not null as known,
               i.key is not null
               and (s.run_id is not null
                    or r.id is not null and row_number() over (partition by i.run_id, i.key order by i.ord) > 1) as seen,
               (coalesce(s.name, first_value(i.name) over (partition by i.run_id, i.key order by i.ord)),
                coalesce(s.payload, first_value(i.payload::jsonb) over (partition by i.run_id, i.key order by i.ord)))
               = (i.name, i.payload::jsonb) as same
        from unnest(p_runs, p_names, p_payloads, p_keys, v_live)
            with ordinality as i(run_id, name, payload, key, live, ord)
        left join run as r on r.id = i.live
        left join signal as s
            on s.run_id = i.run_id and s.key = i.key and (p_tenant is null or s.tenant_id = p_tenant)
    ),
    sent as (
        insert into signal (run_id, name, no, tenant_id, payload, key, sent_at)
        select i.run_id, i.name,
               coalesce((select max(s.no) from signal as s where s.run_id = i.run_id and s.name = i.name), 0)
               + row_number() over (partition by i.run_id, i.name order by i.ord),
               i.tenant_id, i.payload, i.key, engine_now()
        from item as i
        where i.live and not i.seen and not i.no_choice
    )
    select array_agg(
        case when i.live then case when i.seen then case when i.same then 'existing' else 'conflict' end
                                   when i.no_choice then 'not_a_choice' else 'sent' end
             when exists (select from run_history as h
                          where h.id = i.run_id and h.finished_at >= run_created_at(i.run_id)
                            and (p_tenant is null or h.tenant_id = p_tenant))
             -- Who asks again, because the answer was lost, is told that it came, though the run has ended since.
             then case when not i.known then 'finished' when i.same then 'existing' else 'conflict' end
             else 'unknown' end order by i.ord)
    into v_status
    from item as i;

    perform wake_runs(waits_over(array(select distinct l from unnest(v_live) as l where l is not null)));
    return query
    select i.ord, i.run_id, i.status
    from unnest(p_runs, v_status) with ordinality as i(run_id, status, ord)
    order by i.ord;
end
$$;
