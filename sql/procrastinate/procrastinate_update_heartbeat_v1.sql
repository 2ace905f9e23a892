-- A stock worker says that it lives. One whom its peers have given up is refused, so that it stops: it would go on
-- working for nobody.
create function procrastinate_update_heartbeat_v1(p_worker bigint) returns void
language plpgsql
as $$
begin
    if not (select h.alive from heartbeat(p_worker) as h) then
        raise exception 'worker % is not registered any more: it was silent for too long and its runs were given back',
            p_worker
            using errcode = 'HW001', hint = 'restart it; if it was only busy, lower update_heartbeat_interval';
    end if;
end
$$;
