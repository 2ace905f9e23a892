-- select * from ops.drop_consumer('acme', 'case-7', 'billing'): forgets a consumer and its place; producers no longer wait for it.
create function drop_consumer(p_tenant text, p_session text, p_consumer text) returns table (dropped boolean)
language sql
as $$
    select deleted from delete_consumer(p_tenant, p_session, p_consumer)
$$;
