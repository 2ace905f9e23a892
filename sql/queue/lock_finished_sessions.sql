-- Locks the ordered sessions of these finished runs, sorted, and waits for them.
create function lock_finished_sessions(p_runs bigint[]) returns void
language sql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select from ordered_session as s
    where (s.tenant_id, s.session_id) in (
        select h.tenant_id, h.session_id from run_history as h
        where h.id = any (p_runs) and h.order_no is not null
          and h.finished_at >= (select run_created_at(min(i)) from unnest(p_runs) as i))
    order by s.tenant_id, s.session_id
    for no key update
$$;
