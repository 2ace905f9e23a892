-- Locks the parents of these runs, which are to end: that tells a parent whether to go on waiting. Returns those of the runs
-- that may end now: nothing is waited for, and one whose parent somebody else holds is left out.
create function lock_parents(p_runs bigint[]) returns bigint[]
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_held bigint[];
begin
    select coalesce(array_agg(l.id), '{}') into v_held
    from (select p.id from run as p
          where p.id = any (array(select distinct c.parent_id from run as c
                                  where c.id = any (p_runs) and c.parent_id is not null))
          order by p.id
          for no key update skip locked) as l;
    return array(
        select c.id from run as c
        where c.id = any (p_runs)
          and (c.parent_id is null or c.parent_id = any (v_held)
               or not exists (select from run as p where p.id = c.parent_id)));
end
$$;
