-- What became of these runs; no row for one that is live.
create function read_outcomes(p_runs bigint[]) returns table (run_id bigint, state text, output text, error text)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    select h.id, h.state, h.output::text, h.error::text
    from run_history as h
    where h.id = any (p_runs)
      and h.finished_at >= (select run_created_at(min(i)) from unnest(p_runs) as i)
$$;
