-- Tells listening gateways that these sessions have news: a hint, never the truth.
create function notify_sessions(p_tenants text[], p_sessions text[]) returns void
language sql
as $$
    select pg_notify(current_schema() || '.events', d.tenant || '/' || d.session)
    from (select distinct tenant, session from unnest(p_tenants, p_sessions) as i(tenant, session)) as d
$$;
