-- Claims up to p_limit queued runs for a worker, fairly among tenants: all there is to know about claiming.
-- A claim locks the few lanes with the least virtual time, takes the head runs of each in order of priority, then age,
-- and advances each lane by what it took: weighted fair queueing in which workers never wait for one another.
-- It goes round until it is full: one lane alone must give the full speed, lanes found empty make way for others, and
-- lanes whose runs this worker cannot take are passed over.
--   p_tasks   only runs of these tasks; null: any
--   p_except  but not of these
-- An attempt's number is its fencing token: every later write must show it.
-- A worker that its peers have given up is refused: a run claimed in its name would belong to nobody.
-- A uniqueness key holds while queued, so it is given up here: kept, a run that comes back could collide with the next
-- one that took it meanwhile, and stop the rescue of its neighbours.
create function claim_runs(
    p_worker bigint,
    p_queues text[],
    p_limit integer,
    p_tasks text[] default null,
    p_except text[] default null
) returns table (run_id bigint, tenant_id text, queue text, task text, args text,
                 attempt integer, failures integer, session_id text)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    c_lanes constant integer := 64;   -- lanes locked a round: enough to be fair, few enough to leave others some
    c_rounds constant integer := 16;  -- bounds one call when most lanes turn out empty
    v_now timestamptz := engine_now();
    v_left integer := p_limit;
    v_taken integer;
    v_queue text;
    v_lanes text[];
    v_passed text[];
begin
    perform assert_read_committed();
    perform from worker as w where w.id = p_worker for key share;
    if not found then
        raise exception 'worker % is not registered, or its peers have given it up', p_worker
            using errcode = 'HW001', hint = 'register again: select * from register_worker(...)';
    end if;
    foreach v_queue in array p_queues loop
        v_passed := '{}';
        for v_round in 1..c_rounds loop
            exit when v_left <= 0;
            v_lanes := lock_lanes(v_queue, v_passed, c_lanes);
            exit when v_lanes is null;

            return query
            with heads as materialized (
                select h.id, l.tenant_id
                from unnest(v_lanes) as l(tenant_id)
                cross join lateral (
                    select r.id
                    from run as r
                    where r.queue = v_queue and r.tenant_id = l.tenant_id and r.state = 'queued'
                      and (p_tasks is null or r.task = any (p_tasks))
                      and (p_except is null or r.task <> all (p_except))
                    order by r.priority desc, r.id
                    limit ceil(v_left::numeric / cardinality(v_lanes))
                    for no key update skip locked
                ) as h
                limit v_left
            ),
            claimed as (
                update run as r
                set state = 'running', attempt = r.attempt + 1, worker_id = p_worker, claimed_at = v_now, run_at = null,
                    unique_key = null
                from heads as h
                where r.id = h.id
                returning r.id, r.tenant_id, r.queue, r.task, r.args::text, r.attempt, r.failures, r.session_id
            ),
            advanced as (
                update lane as l
                set virtual_time = l.virtual_time + c.runs
                from (select h.tenant_id, count(*) as runs from heads as h group by h.tenant_id) as c
                where l.queue = v_queue and l.tenant_id = c.tenant_id
            )
            select * from claimed;
            get diagnostics v_taken = row_count;
            v_left := v_left - v_taken;
            exit when v_left <= 0;

            perform remove_empty_lanes(v_queue, v_lanes);
            if v_taken = 0 then
                v_passed := v_passed || v_lanes;
            end if;
        end loop;
    end loop;
end
$$;
