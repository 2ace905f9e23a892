-- Ends those of these runs that somebody asked to cancel while they ran: they have stopped, and must not start again.
create function end_cancelled_runs(p_runs bigint[]) returns void
language sql
as $$
    select from cancel_runs(
        null, array(select r.id from run as r where r.id = any (p_runs) and r.cancel_requested), 'cancelled', false)
$$;
