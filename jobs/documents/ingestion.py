"""A document on its way into a collection: its text, its chunks, their vectors, and all of it stored in one statement.

`ingest` does everything; a workflow whose steps are separate calls the parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from howdah.jobs.documents.chunk import Chunk, chunk
from howdah.jobs.documents.extract import DocumentRefused, Extracted, extract
from howdah.router.embeddings import Embedder
from howdah.router.tokens import estimate_tokens
from howdah.sql.errors import EmbeddingMismatch, UnknownCollection
from howdah.sql.json_values import encode
from howdah.sql.pool import Connection, Pool
from howdah.sql.retrieval.calls import NewChunk, NewDocument, put_document, read_collection

# Some 8 MB of prose, more than any book; their vectors are 25 MB of text in the one statement that stores them.
MAX_CHUNKS = 10_000
# Metadata is for filters: it is in an index.
MAX_METADATA_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """Where a document goes and what it came from. The same `key` again replaces the document."""

    tenant_id: str
    collection: str
    key: str
    sha256: bytes
    bytes: int
    metadata: Mapping[str, Any]
    run_id: int | None = None


@dataclass(frozen=True, slots=True)
class Ingested:
    """A stored document; `tokens` (estimated) and `chunks` are counts."""

    document_id: int
    key: str
    title: str
    media_type: str
    tokens: int
    chunks: int


async def ingest(
    pool: Pool,
    embedder: Embedder,
    *,
    tenant_id: str,
    collection: str,
    key: str,
    filename: str,
    data: bytes,
    metadata: Mapping[str, Any],
    run_id: int | None = None,
) -> Ingested:
    """Read, cut, embed and store a document; nothing is stored unless all of it can be.

    No connection is held while the text is read and embedded.

    Raises
    ------
    DocumentRefused
        If it cannot be read; the reason is a sentence for its sender.
    UnknownCollection, EmbeddingMismatch, BadValue, TooLarge
        If there is no such collection, it holds another model's vectors, or `metadata` cannot be stored.
    """
    encode(metadata, "metadata", MAX_METADATA_BYTES)
    async with pool.connection() as connection:
        await check_collection(connection, tenant_id, collection, embedder)
    extracted = await read(data, filename)
    chunks = await embed(embedder, await cut(extracted.text))
    digest = await asyncio.to_thread(lambda: sha256(data).digest())
    source = Source(tenant_id, collection, key, digest, len(data), metadata, run_id)
    async with pool.connection() as connection:
        return await store(connection, source, extracted, chunks)


async def read(data: bytes, filename: str) -> Extracted:
    """The text of a document, read in a thread; errors as for `extract`."""
    return await asyncio.to_thread(extract, data, filename)


async def cut(text: str) -> list[Chunk]:
    """The chunks of a text, cut in a thread.

    Raises
    ------
    DocumentRefused
        If there are more than 10,000.
    """
    chunks = await asyncio.to_thread(chunk, text)
    if len(chunks) > MAX_CHUNKS:
        raise DocumentRefused(f"the document makes {len(chunks):,} chunks; the limit is {MAX_CHUNKS:,}: divide it")
    return chunks


async def embed(embedder: Embedder, chunks: Sequence[Chunk]) -> list[NewChunk]:
    """The chunks with their vectors."""
    vectors = await embedder.embed([part.text for part in chunks])
    return [
        NewChunk(part.start, part.end, part.tokens, part.text, vector)
        for part, vector in zip(chunks, vectors, strict=True)
    ]


async def store(connection: Connection, source: Source, extracted: Extracted, chunks: Sequence[NewChunk]) -> Ingested:
    """Write a document and its chunks, in place of what was under its key."""
    # Of the text: chunks overlap, so their sum would be more.
    tokens = await asyncio.to_thread(estimate_tokens, extracted.text)
    document_id = await put_document(
        connection,
        NewDocument(
            tenant_id=source.tenant_id,
            collection=source.collection,
            key=source.key,
            title=extracted.title,
            media_type=extracted.media_type,
            sha256=source.sha256,
            bytes=source.bytes,
            tokens=tokens,
            metadata=encode(source.metadata, "metadata", MAX_METADATA_BYTES),
            run_id=source.run_id,
            chunks=chunks,
        ),
    )
    return Ingested(document_id, source.key, extracted.title, extracted.media_type, tokens, len(chunks))


async def check_collection(connection: Connection, tenant_id: str, name: str, embedder: Embedder) -> None:
    """Refuse a collection that is not there, or that holds the vectors of another model."""
    row = await read_collection(connection, tenant_id, name)
    if row is None:
        raise UnknownCollection(f"collection {name!r} is unknown: create it first, by POST /v1/collections")
    if row != (embedder.name, embedder.dimensions):
        raise EmbeddingMismatch(
            f"collection {name!r} holds vectors of {row[0]} ({row[1]} dimensions);"
            f" this process embeds by {embedder.name} ({embedder.dimensions}): use a collection of its own"
        )
