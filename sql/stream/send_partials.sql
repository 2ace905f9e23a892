-- Sends partials that a process has made up itself, one an array position, in this order: `tenant/session {json}`, below
-- 8,000 bytes each. Those of a run name it and their attempt; null: of somebody else, whom nothing supersedes.
-- status: ok | stale (the attempt is over: another one has the run, or it has ended; nothing was sent)
create function send_partials(p_payloads text[], p_runs bigint[], p_attempts integer[])
returns table (ord bigint, status text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_status text[];
begin
    -- What is live only need not reach the disk, and is sooner without.
    perform set_config('synchronous_commit', 'off', true);
    select array_agg(case when i.run_id is null or r.id is not null then 'ok' else 'stale' end order by i.ord) into v_status
    from unnest(p_runs, p_attempts) with ordinality as i(run_id, attempt, ord)
    left join run as r on r.id = i.run_id and r.attempt = i.attempt and r.state = 'running';
    perform pg_notify(current_schema() || '.partials', i.payload)
    from unnest(p_payloads, v_status) with ordinality as i(payload, status, ord)
    where i.status = 'ok'
    order by i.ord;
    return query select i.ord, i.status from unnest(v_status) with ordinality as i(status, ord);
end
$$;
