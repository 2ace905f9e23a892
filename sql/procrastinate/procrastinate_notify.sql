-- Wakes stock workers: those of these queues, and those of any. A hint: they also poll, every 5 s by default.
-- LISTEN cuts a channel's name at 63 bytes, and so must we, or a long queue name would fail.
create function procrastinate_notify(p_type text, p_job bigint, p_queues text[]) returns void
language sql
as $$
    select pg_notify(left(c.channel, 63), json_build_object('type', p_type, 'job_id', p_job)::text)
    from (
        select 'procrastinate_any_queue_v1' as channel
        union all
        select 'procrastinate_queue_v1#' || q from unnest(p_queues) as q
    ) as c
$$;
