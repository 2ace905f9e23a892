-- Who waits for whom among those at work on the cell's tables. Behind ops.locks: with the installer's eyes, for an operator's
-- own see nobody else's queries.
create function lock_waits()
returns table (waiting_pid integer, waiting text, waits_for text, since interval, blocking_pid integer, blocking text,
               blocking_state text, blocking_query text)
language sql
as $$
    select a.pid, a.application_name,
           case w.locktype when 'relation' then 'all of table ' when 'advisory' then 'an advisory lock beside table '
                           else 'a row of table ' end || t.tables,
           clock_timestamp() - coalesce(w.waitstart, a.query_start), b.pid, h.application_name, h.state, left(h.query, 200)
    from pg_stat_activity as a
    cross join unnest(pg_blocking_pids(a.pid)) as b(pid)
    left join pg_stat_activity as h on h.pid = b.pid
    join lateral (
        select l.locktype, l.waitstart, l.relation from pg_locks as l where l.pid = a.pid and not l.granted limit 1
    ) as w on true
    cross join lateral (
        select string_agg(distinct c.relname, ', ') as tables
        from pg_locks as l
        join pg_class as c on c.oid = l.relation and c.relkind in ('r', 'p')
        where l.pid = a.pid and c.relnamespace = current_schema()::regnamespace
          and (w.relation is null or w.relation = c.oid)
    ) as t
    where a.datname = current_database() and t.tables is not null
$$;
