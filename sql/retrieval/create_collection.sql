-- Makes a collection; one that exists must have the same embedding model and dimensions. created is then false.
create function create_collection(p_tenant text, p_name text, p_embedding_model text, p_dimensions integer)
returns table (created boolean)
language plpgsql
as $$
declare
    v_created boolean;
    v_there collection;
begin
    if not exists (select from tenant where id = p_tenant) then
        raise exception 'tenant % is unknown', quote_literal(p_tenant) using errcode = 'HW009';
    end if;
    insert into collection (tenant_id, name, embedding_model, dimensions, created_at)
    values (p_tenant, p_name, p_embedding_model, p_dimensions, engine_now())
    on conflict do nothing;
    v_created := found;
    select c.* into v_there from collection as c where c.tenant_id = p_tenant and c.name = p_name;
    if (v_there.embedding_model, v_there.dimensions) is distinct from (p_embedding_model, p_dimensions) then
        raise exception 'collection % has embeddings of % with % dimensions, not of % with %', quote_literal(p_name),
            v_there.embedding_model, v_there.dimensions, p_embedding_model, p_dimensions
            using errcode = 'HW012', hint = 'use that model, or a new collection';
    end if;
    return query select v_created;
end
$$;
