-- Numbers runs that are about to be enqueued in their ordered sessions, and locks those until the caller's transaction
-- ends: the numbers are the order in which the runs were committed, which ids are not. head: nothing is before it.
--   p_kinds  skip | block; null: this one is not ordered, and gets nulls
-- Session by session, in one order for everybody: it inserts and locks, and two who did both for several sessions at
-- once could wait for one another.
create function number_ordered_runs(p_ids bigint[], p_tenants text[], p_sessions text[], p_kinds text[])
returns table (ord bigint, order_no bigint, head boolean)
language plpgsql
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_each record;
    v_session ordered_session;
begin
    for v_each in
        select i.ord, i.id, i.tenant, i.session, i.kind
        from unnest(p_ids, p_tenants, p_sessions, p_kinds) with ordinality as i(id, tenant, session, kind, ord)
        order by i.tenant, i.session, i.ord
    loop
        ord := v_each.ord;
        order_no := null;
        head := null;
        if v_each.kind is not null then
            if v_each.session is null or v_each.kind not in ('skip', 'block') then
                raise exception 'order % without a session, or not skip or block', quote_nullable(v_each.kind)
                    using errcode = 'HW016', hint = 'an ordered run names its session and what its failure does to it';
            end if;
            if v_session.tenant_id is distinct from v_each.tenant or v_session.session_id is distinct from v_each.session then
                loop
                    insert into ordered_session (tenant_id, session_id, last_no, head_id)
                    values (v_each.tenant, v_each.session, 0, v_each.id)
                    on conflict do nothing;
                    select s.* into v_session from ordered_session as s
                    where s.tenant_id = v_each.tenant and s.session_id = v_each.session
                    for no key update;
                    exit when found;
                end loop;
            end if;
            v_session.last_no := v_session.last_no + 1;
            update ordered_session as s set last_no = v_session.last_no
            where s.tenant_id = v_each.tenant and s.session_id = v_each.session;
            order_no := v_session.last_no;
            head := v_session.head_id = v_each.id;
        end if;
        return next;
    end loop;
end
$$;
