"""/v1/files: documents that clients hand in for a run, and reports that runs hand back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from howdah.app.api.auth import Caller
from howdah.app.api.problems import Refused
from howdah.app.api.run_reads import created_at
from howdah.app.composition import Resources
from howdah.sql.retrieval.calls import put_file, read_file

FileName = Annotated[
    str,
    QueryParameter(description="What the file is called; its ending helps to read it.", min_length=1, max_length=500),
]
DEFAULT_MEDIA_TYPE = "application/octet-stream"
# What curl calls any body that it is not told the type of.
CURLS_DEFAULT = "application/x-www-form-urlencoded"
MAX_MEDIA_TYPE = 200


class File(msgspec.Struct):
    """A file as it is kept; its bytes are at `/v1/files/{id}/content`."""

    id: str
    filename: str
    media_type: str
    bytes: int
    created_at: datetime


class FileController(Controller):
    """Files: hand in, look at, fetch."""

    path = "/v1/files"
    tags = ("files",)

    @post(description="The body is the file's bytes, as they are; `Content-Type` is kept with it.")
    async def create_file(
        self,
        request: Request[Any, Any, Any],
        filename: FileName,
        caller: NamedDependency[Caller],
        resources: NamedDependency[Resources],
    ) -> Response[File]:
        """Hand in a file."""
        tenant_id = caller.tenant()
        if "\0" in filename:
            raise Refused(422, "bad-value", "the file name contains NUL: leave it out")
        media_type = request.headers.get("Content-Type", DEFAULT_MEDIA_TYPE)[:MAX_MEDIA_TYPE]
        if media_type == CURLS_DEFAULT:
            media_type = DEFAULT_MEDIA_TYPE
        content = await request.body()
        async with resources.pool.connection() as connection:
            file_id = await put_file(connection, tenant_id, filename, media_type, content)
        file = File(str(file_id), filename, media_type, len(content), created_at(file_id))
        return Response(file, status_code=201, headers={"Location": f"/v1/files/{file_id}"})

    @get("/{file_id:str}")
    async def get_file(
        self, file_id: FromPath[str], caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> File:
        """Look up a file."""
        filename, media_type, content = await _read(resources, caller, file_id)
        return File(file_id, filename, media_type, len(content), created_at(int(file_id)))

    @get("/{file_id:str}/content")
    async def get_content(
        self, file_id: FromPath[str], caller: NamedDependency[Caller], resources: NamedDependency[Resources]
    ) -> Response[bytes]:
        """Fetch a file's bytes."""
        filename, media_type, content = await _read(resources, caller, file_id)
        # Never shown inside a page of ours: what a client handed in may be anything.
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "X-Content-Type-Options": "nosniff",
        }
        return Response(content, media_type=media_type, headers=headers)


async def _read(resources: Resources, caller: Caller, file_id: str) -> tuple[str, str, bytes]:
    found = None
    if file_id.isascii() and file_id.isdigit() and len(file_id) < 20:
        async with resources.pool.connection() as connection:
            found = await read_file(connection, caller.tenant(), int(file_id))
    if found is None:
        raise Refused(404, "unknown-file", f"file {file_id!r} is unknown: POST /v1/files answers the id of a new one")
    return found
