-- Whose key this is; no row when it is unknown, revoked, or its secret is another.
create function find_api_key(p_id text, p_secret_sha256 bytea) returns table (tenant_id text, admin boolean)
language sql stable
as $$
    select k.tenant_id, k.tenant_id is null
    from api_key as k
    where k.id = p_id and k.secret_sha256 = p_secret_sha256 and k.revoked_at is null
$$;
