-- Forgets a consumer and its place: producers no longer wait for it.
create function delete_consumer(p_tenant text, p_session text, p_name text)
returns table (deleted boolean)
language plpgsql
as $$
declare
    v_deleted boolean;
begin
    perform lock_session(p_tenant, p_session);
    delete from consumer as c where c.tenant_id = p_tenant and c.session_id = p_session and c.name = p_name;
    v_deleted := found;
    perform count_acked(p_tenant, p_session);
    return query select v_deleted;
end
$$;
