-- Asks a worker to claim nothing more, to finish what it runs, and to stop. status: asked | stock | unknown.
-- A stock procrastinate worker cannot be asked: end its process, and it does the same.
create function drain_worker(p_worker bigint) returns table (worker_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_name text;
begin
    update worker as w set draining = w.name not like 'procrastinate:%' where w.id = p_worker returning w.name into v_name;
    if v_name not like 'procrastinate:%' then
        -- What makes a worker heartbeat at once.
        perform pg_notify(current_schema() || '.cancels', '');
    end if;
    return query
    select p_worker, case when v_name is null then 'unknown' when v_name like 'procrastinate:%' then 'stock' else 'asked' end;
end
$$;
