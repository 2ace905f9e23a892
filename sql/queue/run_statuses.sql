-- A status for each of these runs, for whoever acted on them: p_done for those in p_done_ids, else p_live where it is not
-- finished, p_finished where it is, and unknown where it is no run (of p_tenant; null: of any).
create function run_statuses(p_tenant text, p_runs bigint[], p_done_ids bigint[], p_done text, p_live text, p_finished text)
returns table (run_id bigint, status text)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select i.id,
           case when i.id = any (p_done_ids) then p_done
                when exists (select from run as r
                             where r.id = i.id and (p_tenant is null or r.tenant_id = p_tenant)) then p_live
                when exists (select from run_history as h
                             where h.id = i.id and h.finished_at >= run_created_at(i.id)
                               and (p_tenant is null or h.tenant_id = p_tenant)) then p_finished
                else 'unknown' end
    from unnest(p_runs) as i(id)
$$;
