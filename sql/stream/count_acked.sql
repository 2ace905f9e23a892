-- Brings session.acked_seq up to date with the session's required consumers, one of which has changed. The caller holds the
-- session's lock.
create function count_acked(p_tenant text, p_session text) returns void
language sql
as $$
    update session as s set acked_seq = n.acked_seq
    from (select min(c.acked_seq) as acked_seq from consumer as c
          where c.tenant_id = p_tenant and c.session_id = p_session and c.required) as n
    where s.tenant_id = p_tenant and s.id = p_session and s.acked_seq is distinct from n.acked_seq
$$;
