-- Claims up to p_limit queued runs for a worker, fairly among tenants: all there is to know about claiming.
-- A claim locks the few lanes with the least virtual time, takes the head runs of each tenant in order of priority, then
-- age, as many as its weight among theirs gives it, and advances its lanes by what it took, divided by that weight:
-- weighted fair queueing in which workers never wait for one another. It goes round until it is full: one lane alone
-- must give the full speed, and lanes found empty, or parked because their tenant may not start more, make way for others.
--   p_tasks  only runs of these tasks: lanes of others are not even looked at; null: any
-- An attempt's number is its fencing token: every later write must show it.
-- A worker that its peers have given up is refused: a run claimed in its name would belong to nobody.
-- A uniqueness key holds while queued, so it is given up here: kept, a run that comes back could collide with the next
-- one that took it meanwhile, and stop the rescue of its neighbours.
create function claim_runs(
    p_worker bigint,
    p_queues text[],
    p_limit integer,
    p_tasks text[] default null
) returns table (run_id bigint, tenant_id text, queue text, task text, args text,
                 attempt integer, failures integer, session_id text, retry text, deadline timestamptz)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    c_lanes constant integer := 64;   -- lanes locked a round: enough to be fair, few enough to leave others some
    c_rounds constant integer := 16;  -- bounds one call when most lanes turn out empty
    c_margin constant bigint := 2 << 20;  -- ids of one millisecond are in no order: a floor stays two of them behind
    v_now timestamptz := engine_now();
    v_left integer := p_limit;
    v_room integer;
    v_cap integer;
    v_held boolean := false;  -- a queue or lanes are locked: from then on nothing is waited for
    v_taken integer;
    v_started integer;
    v_queue text;
    v_tasks text[];
    v_tenants text[];
    v_lanes text[];
    v_twins integer[];
    v_passed text[];
begin
    perform assert_read_committed();
    perform from worker as w where w.id = p_worker for key share;
    if not found then
        raise exception 'worker % is not registered, or its peers have given it up', p_worker
            using errcode = 'HW001', hint = 'register again: select * from register_worker(...)';
    end if;
    foreach v_queue in array p_queues loop
        exit when v_left <= 0;
        -- A quick look, as most workers serve queues that have nothing.
        continue when not exists (select from lane as l where l.queue = v_queue and not l.parked);
        -- Waited for only while nothing else is held: workers come to their queues in any order.
        select q.room, q.per_tenant, q.held or v_held into v_room, v_cap, v_held
        from lock_queue(v_queue, v_left, not v_held) as q;
        continue when v_room <= 0;
        v_tasks := open_tasks(v_queue, p_tasks);
        v_started := 0;
        v_passed := '{}';
        for v_round in 1..c_rounds loop
            select l.tenants, l.tasks, l.twins into v_tenants, v_lanes, v_twins
            from lock_lanes(v_queue, v_tasks, v_passed, least(c_lanes, greatest(v_room, 8))) as l;
            exit when v_tenants is null;
            v_held := true;

            return query
            with lanes as materialized (
                select i.tenant_id, i.task, i.twin, i.ord, l.virtual_time, l.floor_priority, l.floor_id,
                       i.twin = min(i.twin) over (partition by i.tenant_id, i.task) as read
                from unnest(v_tenants, v_lanes, v_twins) with ordinality as i(tenant_id, task, twin, ord)
                join lane as l
                    on l.queue = v_queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
            ),
            tenants as materialized (
                select s.*, ceil(v_room * s.weight / greatest(sum(s.weight) filter (where s.room > 0) over (), s.weight))
                            ::integer as share
                from (
                    select t.id, t.weight, l.ord, l.virtual_time,
                           case when t.paused then 0
                                when v_cap is null then v_room
                                else v_cap - (select count(*)
                                              from (select from run as r
                                                    where r.queue = v_queue and r.tenant_id = t.id and r.state = 'running'
                                                    limit v_cap) as slot) end as room
                    from (select l.tenant_id, min(l.ord) as ord, min(l.virtual_time) as virtual_time
                          from lanes as l group by l.tenant_id) as l
                    join tenant as t on t.id = l.tenant_id
                    order by l.ord
                ) as s
            ),
            heads as materialized (
                select h.place, t.id as tenant_id
                from tenants as t
                cross join lateral (
                    select r.ctid as place
                    from lanes as l
                    cross join lateral (
                        (select r.ctid, -r.priority as rank, r.fresh, r.id
                         from run as r
                         where r.queue = v_queue and r.tenant_id = l.tenant_id and r.task = l.task
                           and r.state = 'queued' and not r.fresh and not r.suspect
                         order by -r.priority, r.id
                         limit t.share)
                        union all
                        (select r.ctid, -r.priority, r.fresh, r.id
                         from run as r
                         where r.queue = v_queue and r.tenant_id = l.tenant_id and r.task = l.task
                           and r.state = 'queued' and r.fresh and -r.priority < -l.floor_priority
                         order by -r.priority, r.id
                         limit t.share)
                        union all
                        (select r.ctid, -r.priority, r.fresh, r.id
                         from run as r
                         where r.queue = v_queue and r.tenant_id = l.tenant_id and r.task = l.task
                           and r.state = 'queued' and r.fresh
                           and (-r.priority, r.id) > (coalesce(-l.floor_priority, -2147483648), coalesce(l.floor_id, 0))
                         order by -r.priority, r.id
                         limit t.share)
                    ) as r
                    where l.tenant_id = t.id and l.read
                    order by r.rank, r.fresh, r.id
                    limit least(t.share, t.room)
                ) as h
                where t.room > 0
                limit v_room
            ),
            locked as materialized (
                select r.ctid as place, r.id, r.tenant_id, r.task, r.priority, r.fresh
                from heads as h
                join run as r on r.ctid = h.place
                where r.state = 'queued'
                for no key update of r skip locked
            ),
            taken as materialized (
                select h.tenant_id, h.task, sum(count(*)) over (partition by h.tenant_id) as of_tenant,
                       min(h.priority) filter (where h.fresh) as lowest, max(h.priority) filter (where h.fresh) as highest,
                       max(h.id) filter (where h.fresh) as last
                from locked as h
                group by h.tenant_id, h.task
            ),
            advanced as (
                update lane as l
                set virtual_time = a.virtual_time,
                    floor_priority = case when l.next_xid <= a.oldest then l.next_priority else l.floor_priority end,
                    floor_id = case when l.next_xid <= a.oldest then l.next_id else l.floor_id end,
                    -- One candidate at a time, and only where one priority was read: its last id is then how far.
                    next_priority = case when l.next_xid > a.oldest or a.priority is null then l.next_priority else a.priority end,
                    next_id = case when l.next_xid > a.oldest or a.priority is null then l.next_id else a.last - c_margin end,
                    next_xid = case when l.next_xid > a.oldest or a.priority is null then l.next_xid else a.newest end
                from (
                    select i.tenant_id, i.task, i.twin, t.virtual_time + g.of_tenant / t.weight as virtual_time,
                           case when k.lowest = k.highest then k.lowest end as priority, k.last,
                           pg_snapshot_xmin(pg_current_snapshot()) as oldest,
                           pg_snapshot_xmax(pg_current_snapshot()) as newest
                    from lanes as i
                    join tenants as t on t.id = i.tenant_id
                    join (select distinct k.tenant_id, k.of_tenant from taken as k) as g on g.tenant_id = i.tenant_id
                    left join taken as k on k.tenant_id = i.tenant_id and k.task = i.task
                    offset 0
                ) as a
                where l.queue = v_queue and l.tenant_id = a.tenant_id and l.task = a.task and l.twin = a.twin
            )
            update run as r
            set state = 'running', attempt = r.attempt + 1, worker_id = p_worker, claimed_at = v_now, run_at = null,
                unique_key = null
            from locked as h
            where r.ctid = h.place
            returning r.id, r.tenant_id, r.queue, r.task, r.args::text, r.attempt, r.failures, r.session_id,
                      r.retry::text, r.deadline;
            get diagnostics v_taken = row_count;
            v_left := v_left - v_taken;
            v_room := v_room - v_taken;
            v_started := v_started + v_taken;
            -- Fewer than one tenant's share: nobody was cut short, and all lanes there are have been read. That is a queue with
            -- little to do: its lanes stay, for the next run, until a claim finds nothing in them.
            exit when v_taken > 0 and v_cap is null
                  and v_taken * cardinality(v_tenants) < v_room + v_taken
                  and cardinality(v_tenants) < least(c_lanes, greatest(v_room + v_taken, 8))
                  and not exists (select from tenant as t where t.id = any (v_tenants) and t.weight <> 1);
            if v_cap is not null or v_room > 0 then
                perform park_lanes(v_queue, v_tenants, v_lanes, v_twins, v_cap);
            end if;
            exit when v_room <= 0;

            perform remove_empty_lanes(v_queue, v_tenants, v_lanes, v_twins);
            if v_taken = 0 then
                v_passed := v_passed || array(select i.tenant_id || '/' || i.task
                                              from unnest(v_tenants, v_lanes) as i(tenant_id, task));
            end if;
        end loop;
        perform count_starts(v_queue, v_started);
    end loop;
end
$$;
