-- Takes finished runs out of history. Only those of 'default', the tenant of stock clients: other tenants' history is
-- theirs, and goes when its day's partition is dropped.
create function procrastinate_delete_runs(p_runs bigint[]) returns void
language sql
as $$
    delete from run_history as h
    where h.id = any (p_runs) and h.tenant_id = 'default'
      and h.finished_at >= (select run_created_at(min(i)) from unnest(p_runs) as i)
$$;
