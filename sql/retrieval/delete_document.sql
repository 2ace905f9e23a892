-- Removes a document and its chunks.
create function delete_document(p_tenant text, p_collection text, p_id bigint) returns table (deleted boolean)
language plpgsql
as $$
begin
    delete from document as d where d.tenant_id = p_tenant and d.collection = p_collection and d.id = p_id;
    return query select found;
end
$$;
