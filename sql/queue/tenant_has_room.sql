-- Whether a tenant may start a run in a queue, as far as the tenant is concerned: neither paused nor at its cap there.
create function tenant_has_room(p_queue text, p_tenant text) returns boolean
language sql stable
set enable_seqscan = off
as $$
    select exists (select from tenant as t where t.id = p_tenant and not t.paused)
       and not exists (
        select from queue as q
        where q.name = p_queue
          and q.max_running_per_tenant <= (
            select count(*)
            from (select from run as r
                  where r.queue = p_queue and r.tenant_id = p_tenant and r.state = 'running'
                  limit q.max_running_per_tenant) as slot))
$$;
