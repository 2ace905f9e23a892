-- Cancels runs: at once where their code has not begun, else by asking their worker. A workflow that no worker has just now is
-- claimed once more, so that its code may tidy up; cancelled again before that, it ends at once. An ordered session goes on
-- without them.
-- p_tenant null: any tenant's (operators). status: cancelled | requested | finished | unknown.
create function cancel_runs(p_tenant text, p_runs bigint[], p_reason text default 'cancelled', p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_idle bigint[];
    v_running bigint[];
    v_begun bigint[];
begin
    perform assert_read_committed();
    perform lock_ordered_sessions(
        array(select r.id from run as r where r.id = any (p_runs) and (p_tenant is null or r.tenant_id = p_tenant)), true);
    select array_agg(l.id) filter (where l.state <> 'running'), array_agg(l.id) filter (where l.state = 'running'),
           array_agg(l.id) filter (where not l.cancel_requested)
    into v_idle, v_running, v_begun
    from (
        select r.id, r.state, r.cancel_requested from run as r
        where r.id = any (p_runs) and (p_tenant is null or r.tenant_id = p_tenant)
        order by r.id for no key update
    ) as l;
    v_begun := runs_to_tidy_up(v_begun);
    v_idle := array(select i from unnest(v_idle) as i where i <> all (v_begun));
    if v_idle <> '{}' then
        perform finish_runs(
            v_idle, array_fill('cancelled'::text, array[cardinality(v_idle)]), null,
            array_fill(jsonb_build_object('type', 'Cancelled', 'message', p_reason), array[cardinality(v_idle)]),
            p_notify);
    end if;
    update run as r set cancel_requested = true where r.id = any (v_running);
    if v_begun <> '{}' then
        perform let_tidy_up(v_begun);
    end if;
    if p_notify and v_running is not null then
        perform pg_notify(current_schema() || '.cancels', '');
    end if;
    return query
    select s.run_id, case when s.run_id = any (v_running || v_begun) then 'requested' else s.status end
    from run_statuses(p_tenant, p_runs, v_idle, 'cancelled', 'unknown', 'finished') as s;
end
$$;
