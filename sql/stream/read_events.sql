-- What happened in a session after number p_after, p_limit events at most, in order, of those that are kept: first_seq is the
-- oldest of them.
create function read_events(p_tenant text, p_session text, p_after bigint default 0, p_limit integer default 100)
returns table (seq bigint, type text, data text, run_id bigint, created_at timestamptz, source text, subject text,
               traceparent text, first_seq bigint)
language sql stable
as $$
    select r.seq, r.type, r.data, r.run_id, r.created_at, r.source, r.subject, r.traceparent, r.first_seq
    from read_sessions(array[p_tenant], array[p_session], array[p_after], p_limit) as r
    where r.seq is not null
    order by r.seq
$$;
