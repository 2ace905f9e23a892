-- Stores a key by the hash of its secret, made by the caller, who alone ever sees the secret.
create function create_api_key(p_id text, p_tenant text, p_name text, p_secret_sha256 bytea) returns table (id text)
language plpgsql
as $$
#variable_conflict use_column
begin
    if p_tenant is not null and not exists (select from tenant as t where t.id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    insert into api_key (id, tenant_id, name, secret_sha256, created_at)
    values (p_id, p_tenant, p_name, p_secret_sha256, engine_now());
    return query select p_id;
end
$$;
