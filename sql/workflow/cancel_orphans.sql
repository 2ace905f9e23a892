-- Cancels these runs, whose parent is over: at once where their code has not begun, else by asking it to stop. One that no
-- worker has just now is claimed once more, so that its code may tidy up, as in cancel_runs; one that was asked before is left
-- to do so. Nothing is waited for: those that somebody else holds become loose ends.
create function cancel_orphans(p_runs bigint[], p_notify boolean) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_held bigint[];
    v_idle bigint[];
    v_running bigint[];
    v_begun bigint[];
begin
    select array_agg(l.id), array_agg(l.id) filter (where l.state <> 'running' and not l.cancel_requested),
           array_agg(l.id) filter (where l.state = 'running' and not l.cancel_requested),
           array_agg(l.id) filter (where not l.cancel_requested)
    into v_held, v_idle, v_running, v_begun
    from (select r.id, r.state, r.cancel_requested from run as r
          where r.id = any (lock_ordered_sessions(p_runs, false))
          order by r.id
          for no key update skip locked) as l;
    v_begun := runs_to_tidy_up(v_begun);
    v_idle := array(select i from unnest(v_idle) as i where i <> all (v_begun));
    if v_idle <> '{}' then
        perform finish_runs(
            v_idle, array_fill('cancelled'::text, array[cardinality(v_idle)]), null,
            array_fill('{"type": "Cancelled", "message": "its parent is over"}'::jsonb, array[cardinality(v_idle)]),
            p_notify);
    end if;
    if v_running is not null then
        update run as r set cancel_requested = true where r.id = any (v_running);
        if p_notify then
            perform pg_notify(current_schema() || '.cancels', '');
        end if;
    end if;
    if v_begun <> '{}' then
        perform let_tidy_up(v_begun);
    end if;
    insert into loose_end (run_id)
    select r.id from run as r where r.id = any (p_runs) and r.id <> all (coalesce(v_held, '{}'));
end
$$;
