-- Locks the p_limit lanes of a queue with the least virtual time, but those in p_passed; the tenants in that order, or
-- null where there is no lane. Lanes that another claim holds are skipped; where it holds them all, this one waits for
-- one a moment: with one tenant alone, two workers would otherwise find the queue empty in turns.
create function lock_lanes(p_queue text, p_passed text[], p_limit integer) returns text[]
language plpgsql
set enable_seqscan = off
as $$
declare
    v_tenants text[];
begin
    for v_try in 1..2 loop
        select array_agg(l.tenant_id) into v_tenants
        from (
            select l.tenant_id
            from lane as l
            where l.queue = p_queue and l.tenant_id <> all (p_passed)
            order by l.virtual_time
            limit p_limit
            for no key update skip locked
        ) as l;
        exit when v_tenants is not null or v_try = 2;
        begin
            -- Longer than a claim takes, shorter than anybody would notice.
            set local lock_timeout = '20ms';
            perform from lane as l
            where l.queue = p_queue and l.tenant_id <> all (p_passed)
            order by l.virtual_time
            limit 1
            for no key update;
            exit when not found;
            set local lock_timeout = 0;
        exception when lock_not_available then
            return null;
        end;
    end loop;
    return v_tenants;
end
$$;
