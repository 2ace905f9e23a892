-- Takes finished runs out of history. Only those of 'default', the tenant of stock clients: other tenants' history is
-- theirs, and goes when its day's partition is dropped. A failed run that its session waits for stays, to be requeued or
-- discarded: without it the session would wait forever.
create function procrastinate_delete_runs(p_runs bigint[]) returns void
language sql
as $$
    delete from run_history as h
    where h.id = any (p_runs) and h.tenant_id = 'default'
      and h.finished_at >= (select run_created_at(min(i)) from unnest(p_runs) as i)
      and not exists (select from ordered_session as s
                      where s.tenant_id = h.tenant_id and s.session_id = h.session_id and s.head_id = h.id)
$$;
