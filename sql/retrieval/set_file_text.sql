-- Keeps the text that was extracted from a file beside it. stored is false when there is no such file.
create function set_file_text(p_tenant text, p_file bigint, p_text text) returns table (stored boolean)
language plpgsql
as $$
begin
    update file set extracted = p_text where tenant_id = p_tenant and id = p_file;
    return query select found;
end
$$;
