create table collection (
    tenant_id text not null,
    name text not null,
    embedding_model text not null,
    dimensions integer not null,
    created_at timestamptz not null default now(),
    constraint collection_pkey primary key (tenant_id, name),
    constraint collection_name_check check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$'),
    -- halfvec's index holds up to 4,000 dimensions.
    constraint collection_dimensions_check check (dimensions between 1 and 4000)
);

create table document (
    tenant_id text not null,
    id bigint not null,
    collection text not null,
    key text not null,
    title text not null,
    media_type text not null,
    sha256 bytea not null,
    bytes integer not null,
    tokens integer not null,
    metadata jsonb not null,
    run_id bigint,
    created_at timestamptz not null default now(),
    constraint document_pkey primary key (tenant_id, id),
    constraint document_collection_fkey foreign key (tenant_id, collection)
        references collection (tenant_id, name) on delete cascade,
    constraint document_key_key unique (tenant_id, collection, key)
);
create index document_metadata_idx on document using gin (metadata jsonb_path_ops);
create index document_run_idx on document (run_id) where run_id is not null;

create table chunk (
    tenant_id text not null,
    document_id bigint not null,
    ordinal integer not null,
    collection text not null,
    start_char integer not null,
    end_char integer not null,
    tokens integer not null,
    content text not null,
    words tsvector generated always as (to_tsvector('english', content)) stored,
    embedding halfvec not null,
    constraint chunk_pkey primary key (tenant_id, document_id, ordinal),
    constraint chunk_document_fkey foreign key (tenant_id, document_id)
        references document (tenant_id, id) on delete cascade
);
create index chunk_words_idx on chunk using gin (words);
create index chunk_collection_idx on chunk (tenant_id, collection);
-- An index needs a fixed number of dimensions: this one serves the built-in embedding model; other sizes are
-- searched exactly until an operator makes theirs.
create index chunk_embedding_256_idx on chunk using hnsw ((embedding::halfvec(256)) halfvec_cosine_ops)
    where vector_dims(embedding) = 256;

-- What clients hand in and what runs hand back, until it is fetched or reviewed: workers share no disk with the API.
create table file (
    tenant_id text not null,
    id bigint not null,
    filename text not null,
    media_type text not null,
    content bytea not null,
    -- The text that was extracted from it; null: not yet.
    extracted text,
    created_at timestamptz not null default now(),
    constraint file_pkey primary key (tenant_id, id),
    constraint file_filename_check check (length(filename) between 1 and 500)
);
-- Documents are mostly text, but PDFs and images are compressed already: spend no time on them again.
alter table file alter column content set storage external;
