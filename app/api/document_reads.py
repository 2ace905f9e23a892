"""Documents as the API shows them, and the read queries behind."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, Select, Text, cast, column, func, select
from sqlalchemy import table as unmirrored
from sqlalchemy.ext.asyncio import AsyncEngine

from howdah.app.api.pagination import bad_cursor, decode_cursor, encode_cursor
from howdah.app.api.problems import Refused
from howdah.sql.tables import document

# Chunks are only counted here; what they hold comes from SQL functions.
_chunk = unmirrored("chunk", column("tenant_id"), column("document_id"))


class Document(msgspec.Struct, frozen=True):
    """A document; `bytes` as it was sent, `tokens` estimated, `chunks` counted. `run` stored it, if one did."""

    id: str
    collection: str
    key: str
    title: str
    media_type: str
    sha256: str
    bytes: int
    tokens: int
    chunks: int
    metadata: Any
    run: str | None
    created_at: datetime


class DocumentPage(msgspec.Struct, frozen=True):
    """Newest first; `next` is the cursor of the page after, null at the end."""

    items: list[Document]
    next: str | None


def parse_document_id(text: str) -> int:
    """A document's id from its text; 404 if no document can have it."""
    if text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) < 1 << 63:
        return int(text)
    raise unknown_document(text)


def unknown_document(text: str) -> Refused:
    """The refusal of a document that is not there."""
    return Refused(404, "unknown-document", f"document {text[:40]!r} is unknown", title="Unknown document")


async def find_document(engine: AsyncEngine, tenant_id: str, collection: str, document_id: int) -> Document:
    """One document.

    Raises
    ------
    Refused
        404, if the collection has none with this id.
    """
    query = _documents(tenant_id, collection).where(document.c.id == document_id)
    async with engine.connect() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise unknown_document(str(document_id))
    return _document(row)


async def list_documents(
    engine: AsyncEngine, tenant_id: str, collection: str, cursor: str | None, limit: int
) -> DocumentPage:
    """A page of a collection's documents, newest first."""
    scope = f"documents of {tenant_id}/{collection}"
    position = decode_cursor(scope, cursor)
    query = _documents(tenant_id, collection).order_by(document.c.id.desc()).limit(limit + 1)
    if position is not None:
        if not position.isdecimal():
            raise bad_cursor(cursor or "")
        query = query.where(document.c.id < int(position))
    async with engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    items = [_document(row) for row in rows[:limit]]
    return DocumentPage(items, encode_cursor(scope, items[-1].id) if len(rows) > limit else None)


def _documents(tenant_id: str, collection: str) -> Select[Any]:
    c = document.c
    chunks = select(func.count()).where(_chunk.c.tenant_id == c.tenant_id, _chunk.c.document_id == c.id)
    return select(
        c.id,
        c.collection,
        c.key,
        c.title,
        c.media_type,
        c.sha256,
        c.bytes,
        c.tokens,
        chunks.scalar_subquery().label("chunks"),
        cast(c.metadata, Text).label("metadata"),
        c.run_id,
        c.created_at,
    ).where(c.tenant_id == tenant_id, c.collection == collection)


def _document(row: Row[Any]) -> Document:
    return Document(
        str(row.id),
        row.collection,
        row.key,
        row.title,
        row.media_type,
        row.sha256.hex(),
        row.bytes,
        row.tokens,
        row.chunks,
        msgspec.Raw(row.metadata.encode()),
        None if row.run_id is None else str(row.run_id),
        row.created_at,
    )
