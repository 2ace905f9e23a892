-- A run and its descendants, p_limit at most, those nearest to it first, and of one run's children the earliest.
-- p_tenant null: any tenant's (operators). step: the parent's step that waits for it. error: why it failed, in short.
create function read_tree(p_tenant text, p_run bigint, p_limit integer default 1000)
returns table (run_id bigint, parent_id bigint, step text, depth integer, task text, state text, error text)
language sql stable
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
    with recursive tree (run_id, parent_id, step, depth, task, state, error) as (
        select o.*
        from (select r.id, r.parent_id, r.parent_step, 0, r.task, r.state, null::jsonb
              from run as r
              where r.id = p_run and (p_tenant is null or r.tenant_id = p_tenant)
              union all
              select h.id, h.parent_id, h.parent_step, 0, h.task, h.state, h.error
              from run_history as h
              where h.id = p_run and h.finished_at >= run_created_at(p_run)
                and (p_tenant is null or h.tenant_id = p_tenant)) as o
        union all
        select c.id, c.parent_id, c.parent_step, t.depth + 1, c.task, c.state, c.error
        from tree as t
        cross join lateral (
            select b.*
            from ((select r.id, r.parent_id, r.parent_step, r.task, r.state, null::jsonb as error
                   from run as r
                   where r.parent_id = t.run_id
                   order by r.id
                   limit p_limit)
                  union all
                  (select h.id, h.parent_id, h.parent_step, h.task, h.state, h.error
                   from run_history as h
                   where h.parent_id = t.run_id and h.finished_at >= run_created_at(t.run_id)
                   order by h.id
                   limit p_limit)) as b
            order by b.id
            limit p_limit
        ) as c
    )
    select t.run_id, t.parent_id, t.step, t.depth, t.task, t.state,
           nullif(concat_ws(': ', t.error ->> 'type', left(t.error ->> 'message', 200)), '')
    from tree as t
    limit p_limit
$$;
