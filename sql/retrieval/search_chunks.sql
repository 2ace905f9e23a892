-- Hybrid retrieval: the best by meaning (embedding) and the best by words, merged by reciprocal rank fusion
-- (Cormack, Clarke and Büttcher, SIGIR 2009; the constant 60 is theirs).
--   p_metadata  only documents whose metadata contains this object
--   score       the fused rank score, higher is better; distance: cosine distance, 0 the same, 2 the opposite
create function search_chunks(
    p_tenant text, p_collection text, p_query text, p_embedding text, p_limit integer default 10,
    p_metadata jsonb default '{}'
) returns table (document_id bigint, ordinal integer, title text, key text, start_char integer, end_char integer,
                 content text, metadata text, score double precision, distance double precision)
language plpgsql stable
-- Filters are applied after the index: go on scanning it until enough rows pass.
set hnsw.iterative_scan = relaxed_order
as $$
#variable_conflict use_column
declare
    c_constant constant integer := 60;
    v_pool integer := least(greatest(p_limit * 4, 40), 400);  -- candidates of each kind before fusion
    v_dimensions integer;
    v_query tsquery;
begin
    select c.dimensions into v_dimensions from collection as c where c.tenant_id = p_tenant and c.name = p_collection;
    if v_dimensions is null then
        raise exception 'collection % is unknown', quote_literal(p_collection) using errcode = 'HW011';
    end if;
    if vector_dims(p_embedding::halfvec) <> v_dimensions then
        raise exception 'collection % takes embeddings of % dimensions, not %', quote_literal(p_collection),
            v_dimensions, vector_dims(p_embedding::halfvec) using errcode = 'HW012';
    end if;
    -- Any of the words: all of them would find nothing for a question in plain language.
    v_query := replace(plainto_tsquery('english', p_query)::text, '&', '|')::tsquery;
    return query execute format($q$
        with by_meaning as (
            select c.document_id, c.ordinal,
                   c.embedding::halfvec(%1$s) <=> $1::halfvec(%1$s) as distance
            from chunk as c
            join document as d on d.tenant_id = c.tenant_id and d.id = c.document_id
            where c.tenant_id = $2 and c.collection = $3 and vector_dims(c.embedding) = %1$s and d.metadata @> $4
            order by c.embedding::halfvec(%1$s) <=> $1::halfvec(%1$s)
            limit $5
        ),
        by_words as (
            select c.document_id, c.ordinal, ts_rank_cd(c.words, $6, 1) as rank
            from chunk as c
            join document as d on d.tenant_id = c.tenant_id and d.id = c.document_id
            where c.tenant_id = $2 and c.collection = $3 and c.words @@ $6 and d.metadata @> $4
            order by rank desc
            limit $5
        ),
        fused as (
            select document_id, ordinal, sum(1.0 / (%2$s + place))::double precision as score
            from (
                select document_id, ordinal, rank() over (order by distance) as place from by_meaning
                union all
                select document_id, ordinal, rank() over (order by rank desc) as place from by_words
            ) as ranked
            group by document_id, ordinal
        )
        select f.document_id, f.ordinal, d.title, d.key, c.start_char, c.end_char, c.content, d.metadata::text,
               f.score, (c.embedding::halfvec(%1$s) <=> $1::halfvec(%1$s))::double precision
        from fused as f
        join chunk as c on c.tenant_id = $2 and c.document_id = f.document_id and c.ordinal = f.ordinal
        join document as d on d.tenant_id = $2 and d.id = f.document_id
        order by f.score desc, f.document_id, f.ordinal
        limit $7
    $q$, v_dimensions, c_constant)
    using p_embedding, p_tenant, p_collection, p_metadata, v_pool, v_query, p_limit;
end
$$;
