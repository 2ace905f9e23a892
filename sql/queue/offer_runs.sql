-- Lets claims find runs that were just queued, one an array position: each has its lane, and who listens hears of it.
-- Nulls: none were.
create function offer_runs(p_queues text[], p_tenants text[], p_tasks text[], p_notify boolean) returns void
language plpgsql
as $$
begin
    if p_queues is not null then
        perform hold_lanes(p_queues, p_tenants, p_tasks);
        if p_notify then
            perform notify_queues(p_queues);
        end if;
    end if;
end
$$;
