-- Looks again at runs that were to be woken or cancelled while somebody else held them, p_limit at most; those that are
-- still held stay. Workers call it each second. Returns how many it looked at.
create function tie_loose_ends(p_limit integer default 1000, p_notify boolean default true) returns table (tied integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
as $$
declare
    v_runs bigint[];
begin
    perform assert_read_committed();
    with taken as (
        delete from loose_end as l
        using (select o.ctid as place from loose_end as o limit p_limit for update skip locked) as o
        where l.ctid = o.place
        returning l.run_id
    )
    select array_agg(distinct t.run_id) into v_runs from taken as t;
    if v_runs is not null then
        perform cancel_orphans(array(
            select r.id from run as r
            where r.id = any (v_runs) and r.parent_id is not null
              and not exists (select from run as p where p.id = r.parent_id)), p_notify);
        perform wake_waiting(v_runs);
    end if;
    return query select coalesce(cardinality(v_runs), 0);
end
$$;
