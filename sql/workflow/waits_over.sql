-- Those of these runs that need not wait, or not any longer. The caller holds their locks, taken in an earlier statement.
--   p_awaits, p_untils  what they would wait for, and until when at the latest; null: what they wait for now
-- What a run waits for is an array of these, and one that has come is enough:
--   {"sleep": step}               its time, which is run_at
--   {"signal": name, "after": n}  a signal of that name after number n; "choices": what its payload, or the payload's
--                                 "choice", may be
--   {"children": step}            no child of that step is live
--   {"events": n, "types": [...]} an event of its session after number n that is not its own; types null: of any type
create function waits_over(p_runs bigint[], p_awaits jsonb[] default null, p_untils timestamptz[] default null)
returns bigint[]
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select coalesce(array_agg(r.id order by r.id), '{}')
    from unnest(p_runs, p_awaits, p_untils) as i(id, awaits, until)
    join run as r on r.id = i.id
    where (i.awaits is not null or r.state = 'waiting')
      and (case when i.awaits is not null then i.until else r.run_at end <= engine_now()
           or exists (
                select from jsonb_array_elements(coalesce(i.awaits, r.awaits)) as a
                where a ? 'signal' and exists (
                          select from signal as s
                          where s.run_id = r.id and s.name = a ->> 'signal' and s.no > (a ->> 'after')::integer)
                   or a ? 'children' and not exists (
                          select from run as c where c.parent_id = r.id and c.parent_step = a ->> 'children')
                   or a ? 'events'
                      and has_event(r.tenant_id, r.session_id, (a ->> 'events')::bigint, a -> 'types', r.id)))
$$;
