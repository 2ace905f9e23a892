-- A paused schedule fires nothing, and what it missed meanwhile is not caught up: resumed, it counts anew from now.
create function pause_schedule(p_tenant text, p_name text, p_paused boolean default true) returns table (changed boolean)
language plpgsql
as $$
declare
    v_now timestamptz := engine_now();
begin
    update schedule as s
    set paused = p_paused, counts_from = v_now, next_at = null, updated_at = v_now
    where s.tenant_id = p_tenant and s.name = p_name and s.paused <> p_paused;
    if found then
        return query select true;
    elsif exists (select from schedule as s where s.tenant_id = p_tenant and s.name = p_name) then
        return query select false;
    else
        raise exception 'schedule % is unknown', quote_literal(p_name) using errcode = 'HW019';
    end if;
end
$$;
