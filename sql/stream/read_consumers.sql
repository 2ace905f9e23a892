-- The consumers of a session, or the one named, by name: how far each is, and how many events that are kept it has not
-- acknowledged.
create function read_consumers(p_tenant text, p_session text, p_name text default null)
returns table (name text, required boolean, acked_seq bigint, lag bigint, created_at timestamptz, acked_at timestamptz)
language sql stable
as $$
    select c.name, c.required, c.acked_seq, s.last_seq - greatest(c.acked_seq, s.first_seq - 1), c.created_at, c.acked_at
    from consumer as c
    join session as s on s.tenant_id = c.tenant_id and s.id = c.session_id
    where c.tenant_id = p_tenant and c.session_id = p_session and (p_name is null or c.name = p_name)
    order by c.name
$$;
