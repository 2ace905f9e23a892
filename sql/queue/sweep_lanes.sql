-- Part of sweep_queues: lanes whose floor hides runs lose it, and claims look from zero; parked lanes whose tenant has
-- room are unparked; lanes without runs go. (The last break nothing: a claim that is full leaves those it emptied.)
create function sweep_lanes(p_limit integer, p_notify boolean) returns table (kind text, repaired integer)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
declare
    v_after text[] := walk_from('lanes', 3);
    v_last text[];
    v_hidden lane[];
    v_parked lane[];
    v_empty lane[];
    v_repaired integer;
begin
    with walked as materialized (
        select l as lane from lane as l
        where (l.queue, l.tenant_id, l.task) > (v_after[1], v_after[2], v_after[3])
        order by l.queue, l.tenant_id, l.task
        limit p_limit
    )
    select array_agg(w.lane) filter (where floor_hides_runs(w.lane)),
           array_agg(w.lane) filter (where (w.lane).parked and tenant_has_room((w.lane).queue, (w.lane).tenant_id)),
           array_agg(w.lane) filter (where not lane_has_runs(w.lane)),
           (array_agg(array[(w.lane).queue, (w.lane).tenant_id, (w.lane).task]
                      order by (w.lane).queue, (w.lane).tenant_id, (w.lane).task))[p_limit:p_limit]
    into v_hidden, v_parked, v_empty, v_last
    from walked as w;
    perform walk_reached('lanes', v_last);

    if v_hidden is not null or v_parked is not null then
        v_hidden := array(
            select l from lane as l
            join unnest(v_hidden || v_parked) as i
                on l.queue = i.queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
            order by l.queue, l.tenant_id, l.task, l.twin
            for no key update of l skip locked);

        update lane as l
        set floor_priority = null, floor_id = null, next_priority = null, next_id = null, next_xid = null
        from unnest(v_hidden) as i
        where l.queue = i.queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin and floor_hides_runs(l);
        get diagnostics v_repaired = row_count;
        if v_repaired > 0 then
            return query select 'run below its lane''s floor', v_repaired;
        end if;

        update lane as l
        set parked = false, virtual_time = greatest(l.virtual_time, least_virtual_time(l.queue))
        from unnest(v_hidden) as i
        where l.queue = i.queue and l.tenant_id = i.tenant_id and l.task = i.task and l.twin = i.twin
          and l.parked and tenant_has_room(l.queue, l.tenant_id);
        get diagnostics v_repaired = row_count;
        if v_repaired > 0 then
            return query select 'parked lane with room', v_repaired;
        end if;
        if p_notify then
            perform notify_queues(array(select distinct i.queue from unnest(v_hidden) as i));
        end if;
    end if;

    select sum(remove_empty_lanes(e.queue, e.tenants, e.tasks, e.twins)) into v_repaired
    from (select i.queue, array_agg(i.tenant_id) as tenants, array_agg(i.task) as tasks,
                 array_agg(i.twin) as twins
          from unnest(v_empty) as i group by i.queue) as e;
    if v_repaired > 0 then
        return query select 'lane without runs', v_repaired;
    end if;
end
$$;
