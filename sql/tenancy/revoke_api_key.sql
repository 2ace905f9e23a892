-- A revoked key opens nothing from its next use. p_tenant null: any tenant's.
create function revoke_api_key(p_tenant text, p_id text) returns table (revoked boolean)
language plpgsql
as $$
begin
    update api_key as k set revoked_at = coalesce(k.revoked_at, engine_now())
    where k.id = p_id and (p_tenant is null or k.tenant_id = p_tenant);
    return query select found;
end
$$;
