-- Ends those of these runs that somebody asked to stop while they ran: they have stopped, and must not start again. Those
-- past their deadline have failed. The caller holds their locks, and those of their ordered sessions.
--   p_tidied  whether their code has ended by itself; one that was taken from its worker may still have something to tidy up
create function end_cancelled_runs(p_runs bigint[], p_tidied boolean) returns void
language plpgsql
as $$
declare
    v_asked bigint[] := array(select r.id from run as r where r.id = any (p_runs) and r.cancel_requested);
    v_begun bigint[] := '{}';
    v_late bigint[];
    v_cancelled bigint[];
begin
    if v_asked = '{}' then
        return;
    end if;
    if not p_tidied then
        v_begun := runs_to_tidy_up(v_asked);
        perform let_tidy_up(v_begun);
    end if;
    select array_agg(r.id) filter (where r.deadline <= engine_now()),
           array_agg(r.id) filter (where r.deadline is null or r.deadline > engine_now())
    into v_late, v_cancelled
    from run as r
    where r.id = any (v_asked) and r.id <> all (v_begun);
    if v_late is not null then
        perform end_late_runs(v_late, false);
    end if;
    if v_cancelled is not null then
        perform from cancel_runs(null, v_cancelled, 'cancelled', false);
    end if;
end
$$;
