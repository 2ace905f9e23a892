-- Locks the sessions to which these runs write, in order, and makes those that are missing.
-- Answers the runs whose session somebody else holds. (A run's session never changes, so reading it unlocked is safe.)
create function lock_run_sessions(p_runs bigint[]) returns bigint[]
language plpgsql
as $$
declare
    v_busy bigint[];
begin
    insert into session (tenant_id, id, created_at)
    select distinct r.tenant_id, session_of_run(r.id, r.session_id), engine_now()
    from run as r
    where r.id = any (p_runs)
      and not exists (select from session as s
                      where s.tenant_id = r.tenant_id and s.id = session_of_run(r.id, r.session_id))
    order by 1, 2
    on conflict do nothing;

    with locked as (
        select s.tenant_id, s.id
        from session as s
        where (s.tenant_id, s.id) in (
            select r.tenant_id, session_of_run(r.id, r.session_id) from run as r where r.id = any (p_runs))
        order by s.tenant_id, s.id
        for no key update skip locked
    )
    select coalesce(array_agg(r.id), '{}') into v_busy
    from run as r
    where r.id = any (p_runs)
      and not exists (select from locked as l
                      where l.tenant_id = r.tenant_id and l.id = session_of_run(r.id, r.session_id));
    return v_busy;
end
$$;
