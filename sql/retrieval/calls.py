"""Typed callers of the retrieval's functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from howdah.sql.pool import Connection


@dataclass(frozen=True, slots=True)
class NewChunk:
    """A piece of a document: ``text[start:end] == content``; `embedding` is of the collection's dimensions."""

    start: int
    end: int
    tokens: int
    content: str
    embedding: Sequence[float]


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to store; `metadata` is a JSON object as text."""

    tenant_id: str
    collection: str
    key: str
    title: str
    media_type: str
    sha256: bytes
    bytes: int
    tokens: int
    metadata: str
    run_id: int | None
    chunks: Sequence[NewChunk]


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A passage that a search found; `metadata` is its document's, JSON text. `distance` is cosine, 0 to 2."""

    document_id: int
    ordinal: int
    title: str
    key: str
    start: int
    end: int
    content: str
    metadata: str
    score: float
    distance: float


def vector_text(vector: Sequence[float]) -> str:
    """A vector as pgvector reads it."""
    return "[" + ",".join(f"{value:.6g}" for value in vector) + "]"


async def create_collection(
    connection: Connection, tenant_id: str, name: str, embedding_model: str, dimensions: int
) -> bool:
    """Make a collection; False if it was there already, with the same model and dimensions."""
    row = await (
        await connection.execute(
            "select created from create_collection(%s, %s, %s, %s)", [tenant_id, name, embedding_model, dimensions]
        )
    ).fetchone()
    assert row is not None
    created: bool = row[0]
    return created


async def read_collection(connection: Connection, tenant_id: str, name: str) -> tuple[str, int] | None:
    """(embedding model, dimensions) of a collection; None where there is no such."""
    cursor = await connection.execute(
        "select embedding_model, dimensions from collection where tenant_id = %s and name = %s", [tenant_id, name]
    )
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1])


async def put_document(connection: Connection, document: NewDocument) -> int:
    """Store a document under its key, replacing what was there; its id."""
    chunks = document.chunks
    # Thousands of vectors as text take a second: not on the event loop.
    embeddings = await asyncio.to_thread(lambda: [vector_text(chunk.embedding) for chunk in chunks])
    row = await (
        await connection.execute(
            "select document_id from put_document(%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb, %s::bigint,"
            " %s::integer[], %s::integer[], %s::integer[], %s::text[], %s::text[])",
            [
                document.tenant_id,
                document.collection,
                document.key,
                document.title,
                document.media_type,
                document.sha256,
                document.bytes,
                document.tokens,
                document.metadata,
                document.run_id,
                [chunk.start for chunk in chunks],
                [chunk.end for chunk in chunks],
                [chunk.tokens for chunk in chunks],
                [chunk.content for chunk in chunks],
                embeddings,
            ],
        )
    ).fetchone()
    assert row is not None
    document_id: int = row[0]
    return document_id


async def delete_document(connection: Connection, tenant_id: str, collection: str, document_id: int) -> bool:
    """False if there is no such document."""
    row = await (
        await connection.execute(
            "select deleted from delete_document(%s, %s, %s)", [tenant_id, collection, document_id]
        )
    ).fetchone()
    assert row is not None
    deleted: bool = row[0]
    return deleted


async def search_chunks(
    connection: Connection,
    tenant_id: str,
    collection: str,
    query: str,
    embedding: Sequence[float],
    limit: int = 10,
    metadata: str = "{}",
) -> list[FoundChunk]:
    """The best passages by meaning and by words, of documents whose metadata contains `metadata` (JSON text)."""
    cursor = await connection.execute(
        "select * from search_chunks(%s, %s, %s, %s, %s, %s::jsonb)",
        [tenant_id, collection, query, vector_text(embedding), limit, metadata],
    )
    return [FoundChunk(*row) for row in await cursor.fetchall()]


async def put_file(connection: Connection, tenant_id: str, filename: str, media_type: str, content: bytes) -> int:
    """Keep a file; its id."""
    row = await (
        await connection.execute(
            "select file_id from put_file(%s, %s, %s, %b)", [tenant_id, filename, media_type, content]
        )
    ).fetchone()
    assert row is not None
    file_id: int = row[0]
    return file_id


async def read_file(connection: Connection, tenant_id: str, file_id: int) -> tuple[str, str, bytes] | None:
    """(filename, media type, content); None where there is no such file."""
    cursor = await connection.execute(
        "select filename, media_type, content from file where tenant_id = %s and id = %s",
        [tenant_id, file_id],
        binary=True,
    )
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1], row[2])


async def set_file_text(connection: Connection, tenant_id: str, file_id: int, text: str) -> None:
    """Keep the text extracted from a file beside it."""
    await connection.execute("select stored from set_file_text(%s, %s, %s)", [tenant_id, file_id, text])


async def read_file_text(connection: Connection, tenant_id: str, file_id: int) -> str | None:
    """The text extracted from a file; None where there is none yet."""
    cursor = await connection.execute(
        "select extracted from file where tenant_id = %s and id = %s", [tenant_id, file_id]
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]
