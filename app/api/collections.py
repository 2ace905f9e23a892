"""/v1/collections: documents, cut into chunks with embeddings, and hybrid search over them."""

from __future__ import annotations

from datetime import datetime
from email.message import EmailMessage
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.datastructures import State, UploadFile
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, PathParameter, QueryParameter
from sqlalchemy import Row, select

from howdah.app.api.auth import Caller
from howdah.app.api.bodies import JsonBody, decode_body
from howdah.app.api.document_reads import (
    Document,
    DocumentPage,
    find_document,
    list_documents,
    parse_document_id,
    unknown_document,
)
from howdah.app.api.pagination import DEFAULT_LIMIT, Cursor, Limit, decode_cursor, encode_cursor
from howdah.app.api.problems import FieldError, Refused
from howdah.app.composition import Resources
from howdah.jobs.documents.extract import DocumentRefused
from howdah.jobs.documents.ingestion import check_collection, ingest
from howdah.router.errors import InvalidRequestError
from howdah.sql.errors import EmbeddingMismatch, UnknownCollection
from howdah.sql.json_values import encode
from howdah.sql.retrieval.calls import create_collection, delete_document, search_chunks
from howdah.sql.tables import collection

MAX_RESULTS = 50
# A question, not a document; the embedder's weights mean little beyond.
MAX_QUERY_CHARS = 8_192

Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)",
        description="Letters, digits, `.`, `_` and `-`, beginning with a letter or digit; 128 at most.",
        examples=["contracts"],
    ),
]
NamePath = Annotated[str, PathParameter(description="The collection's name.", max_length=128)]
DocumentPath = Annotated[str, PathParameter(description="The document's id.", max_length=40)]
Filename = Annotated[
    str | None,
    QueryParameter(
        max_length=255, description="The file's name, which tells its format; else of `Content-Disposition`."
    ),
]
DocumentKey = Annotated[
    str | None,
    QueryParameter(
        min_length=1, max_length=512, description="Replaces the document of this key; the file's name if left out."
    ),
]
Metadata = Annotated[str | None, QueryParameter(max_length=16_384, description="A JSON object, for filters.")]


class NewCollection(msgspec.Struct, forbid_unknown_fields=True):
    """A collection to make; `embedding_model` is this installation's if left out."""

    name: Name
    embedding_model: str | None = None


class Collection(msgspec.Struct):
    """A collection; all its chunks have embeddings of one model."""

    name: str
    tenant: str
    embedding_model: str
    dimensions: int
    created_at: datetime


class CollectionPage(msgspec.Struct):
    """By name; `next` is the cursor of the page after, null at the end."""

    items: list[Collection]
    next: str | None


class SearchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What to look for, by meaning and by words; only in documents whose metadata contains `metadata`."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY_CHARS)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULTS)] = 10
    metadata: dict[str, Any] = {}


class Passage(msgspec.Struct):
    """A passage found: characters `start` to `end` of its document's text. `score`: higher is better; `distance`:
    cosine, 0 the same, 2 the opposite, null where the passage has no direction."""

    document_id: str
    title: str
    key: str
    ordinal: int
    start: int
    end: int
    content: str
    metadata: Any
    score: float
    distance: float | None


class SearchResults(msgspec.Struct):
    """Best first."""

    results: list[Passage]


class CollectionController(Controller):
    """Collections, their documents, and search."""

    path = "/v1/collections"
    tags = ("collections",)

    @post(dto=JsonBody[NewCollection], responses={200: ResponseSpec(Collection, description="There already")})
    async def create_collection(
        self, data: JSONBody[NewCollection], caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Response[Collection]:
        """Make a collection. One that is there already is answered as it is, with 200."""
        tenant_id, embedder = caller.tenant(), resources.embedder
        if data.embedding_model not in (None, embedder.name):
            raise EmbeddingMismatch(
                f"this installation embeds by {embedder.name}, not by {data.embedding_model!r}: leave the model out"
            )
        async with resources.pool.connection() as connection:
            created = await create_collection(connection, tenant_id, data.name, embedder.name, embedder.dimensions)
        return Response(
            await _find_collection(resources, tenant_id, data.name),
            status_code=201 if created else 200,
            headers={"Location": f"/v1/collections/{data.name}"},
        )

    @get()
    async def list_collections(
        self,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> CollectionPage:
        """List collections by name."""
        tenant_id = caller.tenant()
        scope = f"collections of {tenant_id}"
        c = collection.c
        query = select(collection).where(c.tenant_id == tenant_id).order_by(c.name).limit(limit + 1)
        if (position := decode_cursor(scope, cursor)) is not None:
            query = query.where(c.name > position)
        async with resources.engine.connect() as reading:
            rows = (await reading.execute(query)).all()
        items = [_collection(row) for row in rows[:limit]]
        return CollectionPage(items, encode_cursor(scope, items[-1].name) if len(rows) > limit else None)

    @get("/{name:str}")
    async def get_collection(
        self, name: NamePath, caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Collection:
        """Look up a collection."""
        return await _find_collection(resources, caller.tenant(), name)

    @post("/{name:str}/documents")
    async def create_document(
        self,
        request: Request[Any, Any, State],
        name: NamePath,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        filename: Filename = None,
        key: DocumentKey = None,
        metadata: Metadata = None,
    ) -> Response[Document]:
        """Read, cut, embed and store a document: PDF, HTML, Markdown, reStructuredText or plain text.

        The body is the file itself, or `multipart/form-data` with one file.
        """
        tenant_id = caller.tenant()
        wanted = {} if metadata is None else decode_body(metadata.encode(), dict[str, Any], "/metadata")
        # Before a large body is read for nothing.
        async with resources.pool.connection() as connection:
            await check_collection(connection, tenant_id, name, resources.embedder)
        data, sent_as = await _file(request)
        named = filename or sent_as
        try:
            stored = await ingest(
                resources.pool,
                resources.embedder,
                tenant_id=tenant_id,
                collection=name,
                key=key or named or sha256(data).hexdigest(),
                filename=named or _named_by_type(request),
                data=data,
                metadata=wanted,
            )
        except DocumentRefused as refusal:
            raise Refused(422, "document-refused", refusal.reason, title="Document refused") from refusal
        found = await find_document(resources.engine, tenant_id, name, stored.document_id)
        return Response(
            found, status_code=201, headers={"Location": f"/v1/collections/{name}/documents/{stored.document_id}"}
        )

    @get("/{name:str}/documents")
    async def list_documents(
        self,
        name: NamePath,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> DocumentPage:
        """List a collection's documents, newest first."""
        tenant_id = caller.tenant()
        await _find_collection(resources, tenant_id, name)
        return await list_documents(resources.engine, tenant_id, name, cursor, limit)

    @get("/{name:str}/documents/{document_id:str}")
    async def get_document(
        self,
        name: NamePath,
        document_id: DocumentPath,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Document:
        """Look up a document."""
        return await find_document(resources.engine, caller.tenant(), name, parse_document_id(document_id))

    @delete("/{name:str}/documents/{document_id:str}")
    async def delete_document(
        self,
        name: NamePath,
        document_id: DocumentPath,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> None:
        """Delete a document and its chunks."""
        tenant_id = caller.tenant()
        async with resources.pool.connection() as connection:
            if not await delete_document(connection, tenant_id, name, parse_document_id(document_id)):
                raise unknown_document(document_id)

    @post("/{name:str}/search", dto=JsonBody[SearchRequest], status_code=200)
    async def search(
        self,
        name: NamePath,
        data: JSONBody[SearchRequest],
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> SearchResults:
        """Find passages by meaning (embeddings) and by words, merged by rank."""
        tenant_id = caller.tenant()
        metadata = encode(data.metadata, "metadata")
        async with resources.pool.connection() as connection:
            await check_collection(connection, tenant_id, name, resources.embedder)
        try:
            [vector] = await resources.embedder.embed([data.query])
        except InvalidRequestError as error:
            detail = "the query is blank: ask something"
            raise Refused(422, "invalid-request", detail, errors=[FieldError(detail, "/query")]) from error
        async with resources.pool.connection() as connection:
            found = await search_chunks(connection, tenant_id, name, data.query, vector, data.limit, metadata)
        return SearchResults(
            [
                Passage(
                    str(passage.document_id),
                    passage.title,
                    passage.key,
                    passage.ordinal,
                    passage.start,
                    passage.end,
                    passage.content,
                    msgspec.Raw(passage.metadata.encode()),
                    passage.score,
                    passage.distance,
                )
                for passage in found
            ]
        )


async def _file(request: Request[Any, Any, State]) -> tuple[bytes, str | None]:
    """The bytes sent, and the file's name if the request tells it."""
    kind, _ = request.content_type
    if kind != "multipart/form-data":
        header = EmailMessage()
        header["Content-Disposition"] = request.headers.get("Content-Disposition", "attachment")
        return await request.body(), header.get_filename()
    files = [part for _, part in (await request.form()).multi_items() if isinstance(part, UploadFile)]
    if len(files) != 1:
        raise Refused(422, "invalid-request", f"the form holds {len(files)} files: send one")
    return await files[0].read(), files[0].filename or None


def _named_by_type(request: Request[Any, Any, State]) -> str:
    """A name that says the format, for a file without one."""
    kind, _ = request.content_type
    endings = {"application/pdf": ".pdf", "text/html": ".html", "text/markdown": ".md", "text/x-rst": ".rst"}
    return f"document{endings.get(kind, '.txt')}"


async def _find_collection(resources: Resources, tenant_id: str, name: str) -> Collection:
    query = select(collection).where(collection.c.tenant_id == tenant_id, collection.c.name == name)
    async with resources.engine.connect() as reading:
        row = (await reading.execute(query)).one_or_none()
    if row is None:
        raise UnknownCollection(f"collection {name!r} is unknown: create it first, by POST /v1/collections")
    return _collection(row)


def _collection(row: Row[Any]) -> Collection:
    return Collection(row.name, row.tenant_id, row.embedding_model, row.dimensions, row.created_at)
