-- Stores a document and its chunks under a key; the same key again replaces both, and keeps the document's id.
--   p_embeddings  one vector an chunk as text, '[0.1,…]', of the collection's dimensions
create function put_document(
    p_tenant text, p_collection text, p_key text, p_title text, p_media_type text, p_sha256 bytea, p_bytes integer,
    p_tokens integer, p_metadata jsonb, p_run bigint,
    p_starts integer[], p_ends integer[], p_chunk_tokens integer[], p_contents text[], p_embeddings text[]
) returns table (document_id bigint)
language plpgsql
as $$
#variable_conflict use_column
declare
    v_dimensions integer;
    v_id bigint;
begin
    select c.dimensions into v_dimensions from collection as c where c.tenant_id = p_tenant and c.name = p_collection;
    if v_dimensions is null then
        raise exception 'collection % is unknown', quote_literal(p_collection)
            using errcode = 'HW011', hint = 'create it first: select * from create_collection(...)';
    end if;
    if exists (select from unnest(p_embeddings) as e where vector_dims(e::halfvec) <> v_dimensions) then
        raise exception 'collection % takes embeddings of % dimensions', quote_literal(p_collection), v_dimensions
            using errcode = 'HW012';
    end if;
    insert into document as d (tenant_id, id, collection, key, title, media_type, sha256, bytes, tokens, metadata,
                               run_id, created_at)
    values (p_tenant, next_run_id(), p_collection, p_key, p_title, p_media_type, p_sha256, p_bytes, p_tokens,
            p_metadata, p_run, engine_now())
    on conflict (tenant_id, collection, key) do update
    set title = excluded.title, media_type = excluded.media_type, sha256 = excluded.sha256, bytes = excluded.bytes,
        tokens = excluded.tokens, metadata = excluded.metadata, run_id = excluded.run_id,
        created_at = excluded.created_at
    returning d.id into v_id;
    delete from chunk as c where c.tenant_id = p_tenant and c.document_id = v_id;
    insert into chunk (tenant_id, document_id, ordinal, collection, start_char, end_char, tokens, content, embedding)
    select p_tenant, v_id, i.ord - 1, p_collection, i.start_char, i.end_char, i.tokens, i.content, i.embedding::halfvec
    from unnest(p_starts, p_ends, p_chunk_tokens, p_contents, p_embeddings)
        with ordinality as i(start_char, end_char, tokens, content, embedding, ord);
    return query select v_id;
end
$$;
