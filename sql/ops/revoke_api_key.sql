-- select * from ops.revoke_api_key('0123456789abcdef'): API processes remember keys for 5 seconds; then it opens nothing.
create function revoke_api_key(p_key text) returns table (revoked boolean)
language sql
as $$
    select * from revoke_api_key(null, p_key)
$$;
