-- Names a reader of a session whose place is kept. One that is there keeps its place; only `required` is changed.
--   p_from  the first event that it is to have; 1: all that are kept; null: what comes from now on
create function put_consumer(p_tenant text, p_session text, p_name text, p_required boolean default false,
                             p_from bigint default null) returns table (created boolean)
language plpgsql
as $$
#variable_conflict use_column
declare
    c_most constant integer := 100;
    v_session session := lock_session(p_tenant, p_session);
    v_created boolean;
begin
    if p_from < 1 or p_from > v_session.last_seq + 1 then
        raise exception 'session % has no event %', quote_literal(p_session), p_from
            using errcode = 'HW024', hint = format('begin with one from 1 to %s', v_session.last_seq + 1);
    end if;
    if (select count(*) from consumer as c where c.tenant_id = p_tenant and c.session_id = p_session and c.name <> p_name) >= c_most then
        raise exception 'session % has % consumers already', quote_literal(p_session), c_most
            using errcode = 'HW016', hint = 'delete those that read no more: select * from delete_consumer(...)';
    end if;
    insert into consumer as c (tenant_id, session_id, name, acked_seq, required, created_at)
    values (p_tenant, p_session, p_name,
            case when p_from is null then v_session.last_seq else greatest(p_from, v_session.first_seq) - 1 end,
            p_required, engine_now())
    on conflict on constraint consumer_pkey do update set required = excluded.required
    returning xmax = 0 into v_created;
    perform count_acked(p_tenant, p_session);
    return query select v_created;
end
$$;
