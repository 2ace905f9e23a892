-- Defers a periodic job once for each moment, however many workers try. Returns null where that moment, or a later
-- one, was deferred already: a worker that lags behind the others defers nothing twice.
create function procrastinate_defer_periodic_job_v2(
    p_queue character varying,
    p_lock character varying,
    p_queueing_lock character varying,
    p_task character varying,
    p_priority integer,
    p_periodic_id character varying,
    p_defer_timestamp bigint,
    p_args jsonb
) returns bigint
language plpgsql
as $$
declare
    v_id bigint;
begin
    insert into procrastinate_periodic_defers as d (task_name, periodic_id, defer_timestamp)
    values (p_task, p_periodic_id, p_defer_timestamp)
    on conflict (task_name, periodic_id) do update set defer_timestamp = excluded.defer_timestamp
        where d.defer_timestamp < excluded.defer_timestamp;
    if not found then
        return null;
    end if;
    v_id := (procrastinate_defer_jobs_v1(array[
        row(p_queue, p_task, p_priority, p_lock, p_queueing_lock, p_args, null)::procrastinate_job_to_defer_v1]))[1];
    update procrastinate_periodic_defers as d set job_id = v_id
    where d.task_name = p_task and d.periodic_id = p_periodic_id;
    return v_id;
end
$$;
