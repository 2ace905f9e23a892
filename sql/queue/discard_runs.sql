-- Gives failed runs up: they become cancelled ones, with their error kept, and an ordered session that waited for one of
-- them goes on. p_tenant null: any tenant's (operators). status: discarded | live | finished | unknown.
create function discard_runs(p_tenant text, p_runs bigint[], p_notify boolean default true)
returns table (run_id bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_oldest timestamptz := (select run_created_at(min(i)) from unnest(p_runs) as i);
    v_discarded bigint[];
begin
    perform assert_read_committed();
    perform lock_finished_sessions(p_runs);
    with discarded as (
        update run_history as h set state = 'cancelled'
        where h.id = any (p_runs) and h.finished_at >= v_oldest and h.state = 'failed'
          and (p_tenant is null or h.tenant_id = p_tenant)
        returning h.id, h.tenant_id, h.session_id, h.order_no
    ),
    kept as (select array_agg(d.id) as ids from discarded as d)
    select k.ids into v_discarded from kept as k;
    perform advance_sessions(array_agg(h.id), array_agg(h.tenant_id), array_agg(h.session_id), array_agg(h.order_no), p_notify)
    from run_history as h
    where h.id = any (v_discarded) and h.finished_at >= v_oldest and h.order_no is not null
    having count(*) > 0;
    return query select * from run_statuses(p_tenant, p_runs, v_discarded, 'discarded', 'live', 'finished');
end
$$;
