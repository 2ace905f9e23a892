-- Keeps a file; its id.
create function put_file(p_tenant text, p_filename text, p_media_type text, p_content bytea)
returns table (file_id bigint)
language plpgsql
as $$
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    return query
    insert into file (tenant_id, id, filename, media_type, content, created_at)
    values (p_tenant, next_run_id(), p_filename, p_media_type, p_content, engine_now())
    returning id;
end
$$;
