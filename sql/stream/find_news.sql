-- Those of these readers, each at number p_afters of its session, for whom there is something: by their place in the
-- arrays. The poll behind lost hints: most often it finds nobody, and costs a look at each session's row.
create function find_news(p_tenants text[], p_sessions text[], p_afters bigint[]) returns table (ord bigint)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select i.ord
    from unnest(p_tenants, p_sessions, p_afters) with ordinality as i(tenant, session, after, ord)
    left join session as s on s.tenant_id = i.tenant and s.id = i.session
    where s.last_seq > i.after or s.state = 'closed'
       -- A run's own session ends with the run.
       or i.session like 'run:%' and not exists (select from run as r where r.id = substr(i.session, 5)::bigint)
$$;
