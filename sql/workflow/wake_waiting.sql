-- Wakes those of these runs that need not wait any longer: a child of theirs has ended, or their session has news. Nothing is
-- waited for: those that somebody else holds become loose ends. Locked first, then looked at in another statement: of the
-- last two children to end at the same moment, one sees the other gone.
create function wake_waiting(p_runs bigint[]) returns void
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_held bigint[];
begin
    select coalesce(array_agg(l.id), '{}') into v_held
    from (select r.id from run as r where r.id = any (p_runs) order by r.id for no key update skip locked) as l;
    insert into loose_end (run_id)
    select r.id from run as r where r.id = any (p_runs) and r.id <> all (v_held);
    perform wake_runs(waits_over(v_held));
end
$$;
