"""The page at `/`: its files, as they are in this folder, and the headers that keep it to this API alone.

The page is plain HTML, CSS and ES modules; nothing builds it. What it shows it asks of the API like any other client.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.params import FromPath

from howdah.app.api.problems import Refused

# Litestar adds the charset to those of text.
MEDIA_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# Scripts and styles are files of ours, requests go to this API, and no text ever becomes markup (trusted types).
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Asked for each time, sent only when changed: modules of two releases never meet.
    "Cache-Control": "no-cache",
}


@get("/", include_in_schema=False)
async def read_page(request: Request[Any, Any, State]) -> Response[bytes]:
    """The page itself."""
    return _answer(request, "index.html")


@get("/dashboard/{name:str}", include_in_schema=False)
async def read_page_file(request: Request[Any, Any, State], name: FromPath[str]) -> Response[bytes]:
    """A style, script or image of the page."""
    return _answer(request, name)


def _answer(request: Request[Any, Any, State], name: str) -> Response[bytes]:
    if name not in _files():
        raise Refused(404, "not-found", f"the page has no file {name!r}")
    content, tag = _files()[name]
    headers = {**HEADERS, "ETag": tag}
    if tag in request.headers.get("If-None-Match", ""):
        return Response(b"", status_code=304, headers=headers)
    return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]], headers=headers)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Content and entity tag of each file, by name."""
    found: dict[str, tuple[bytes, str]] = {}
    for file in files(__package__).iterdir():
        if file.name.rpartition(".")[2] in MEDIA_TYPES:
            content = file.read_bytes()
            found[file.name] = content, f'"{sha256(content).hexdigest()[:32]}"'
    return found
