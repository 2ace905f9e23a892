"""The OpenAPI 3.1 document at `/schema/openapi.json`, and a page to read and try it at `/schema`.

The page's script, style and icon come from the installed wheel `swagger-ui-py` (Swagger UI 5, which reads 3.1) and
are served from here: the page asks no other host for anything.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from litestar import Litestar, Response, get
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, OpenAPIMediaType, OpenAPIResponse, Reference, SecurityScheme, Tag
from litestar.params import FromPath
from litestar.routes import HTTPRoute

from howdah.app.api.auth import TENANT_HEADER
from howdah.app.api.problems import MEDIA_TYPE, Refused

PATH = "/schema"
# Litestar adds the charset to those of text.
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-standalone-preset.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
TAGS = {
    "runs": "Executions of tasks: create, look up, wait, list, explain, change, cancel, requeue, discard; one or many.",
    "workflows": "Runs that wait: signals to them, their children, and forks that go on from a step.",
    "schedules": "Runs that come again and again, by cron expressions on the clock of a time zone.",
    "sessions": "Ordered streams of events, numbered 1, 2, 3 … without gaps; read as pages or as server-sent events.",
    "collections": "Documents, and retrieval from them.",
    "files": "What clients hand in for a run, and what runs hand back.",
    "models": "What can be chosen from, in OpenAI's shape.",
    "queues": "How much waits and runs, and what may.",
    "tasks": "What workers have registered; pause and resume, for administrators.",
    "tenants": "Customers and their keys; for administrators.",
    "workers": "Workers in any language: register, claim, keep steps, finish; for administrators.",
    "health": "Whether this process lives and can serve.",
}
DESCRIPTION = f"""Every error is a problem document (RFC 9457, `application/problem+json`). Ids are strings.
Lists answer `items` and `next`, the opaque `cursor` of the page after. An administrator's key acts for a tenant by
naming it in the header `{TENANT_HEADER}`."""


# A page shows one for each body; where the fields' own examples do not make a sensible whole, this does.
EXAMPLES: dict[str, Any] = {
    "/v1/runs": {"task": "invoice.send", "args": {"id": 7}, "session": "case-7"},
    "/v1/runs/batch": {"runs": [{"task": "invoice.send", "args": {"id": 7}, "idempotency_key": "invoice-7"}]},
    "/v1/runs/requeue": {"task": "invoice.send", "since": "2030-01-01T00:00:00Z"},
    "/v1/runs/discard": {"task": "invoice.send", "error": "ValueError"},
    "/v1/runs/cancel": {"queue": "mail"},
    "/v1/runs/{run_id}/signals": {"name": "approval", "payload": {"choice": "approve", "by": "ann"}},
    "/v1/runs/{run_id}/fork": {"steps": 2},
    "/v1/schedules/{name}": {
        "task": "invoice.remind",
        "cron": "30 9 * * mon-fri",
        "time_zone": "Europe/Berlin",
        "args": {"customer": "acme"},
    },
    "/v1/sessions": {"id": "case-7"},
    "/v1/sessions/{session_id}/events": {"events": [{"type": "note.added", "data": {"text": "called back"}}]},
    "/v1/stream-tokens": {"session": "case-7", "ttl": 300},
    "/v1/collections": {"name": "contracts"},
    "/v1/collections/{name}/search": {"query": "Who may end the contract?", "limit": 5},
    "/v1/tenants": {"id": "acme", "name": "Acme & Co"},
    "/v1/tenants/{tenant_id}/keys": {"name": "web shop"},
    "/v1/workers": {
        "name": "scanner-1",
        "queues": ["scans"],
        "tasks": [{"name": "scan.read", "kind": "workflow", "queue": "scans", "args_schema": {"type": "object"}}],
    },
    "/v1/workers/{worker_id}/claim": {"limit": 10, "wait": 20},
    "/v1/workers/{worker_id}/items": {
        "items": [{"run": "7", "attempt": 1, "kind": "checkpoint", "name": "scan", "body": {"pages": 3}}]
    },
}

# The statuses that any operation may answer with; what else it refuses is told by its text, and by `default`.
PROBLEMS = {
    "400": "The request cannot be read.",
    "401": "No key, or a wrong one.",
    "404": "It does not exist, or it is another tenant's.",
    "413": "The body is larger than allowed.",
    "422": "A value does not fit; `errors` points at each.",
}


@get(f"{PATH}/assets/{{name:str}}", include_in_schema=False)
async def read_asset(name: FromPath[str]) -> Response[bytes]:
    """A file of the docs page, from the wheel."""
    if name not in ASSETS:
        raise Refused(404, "not-found", f"the docs page has no file {name!r}")
    data = (files("swagger_ui") / "static" / name).read_bytes()
    return Response(data, media_type=ASSETS[name], headers={"Cache-Control": "public, max-age=86400"})


def openapi_config() -> OpenAPIConfig:
    """What the document says beside the routes."""
    return OpenAPIConfig(
        title="Howdah",
        version=version("howdah"),
        description=DESCRIPTION,
        path=PATH,
        use_handler_docstrings=True,
        components=Components(
            security_schemes={
                "key": SecurityScheme(type="http", scheme="bearer", bearer_format="hwd_<id>_<secret>"),
            }
        ),
        security=[{"key": []}],
        tags=[Tag(name=name, description=meaning) for name, meaning in TAGS.items()],
        render_plugins=[
            JsonRenderPlugin(),
            SwaggerRenderPlugin(
                path="/",
                js_url=f"{PATH}/assets/swagger-ui-bundle.js",
                css_url=f"{PATH}/assets/swagger-ui.css",
                standalone_preset_js_url=f"{PATH}/assets/swagger-ui-standalone-preset.js",
                favicon=f"<link rel='icon' type='image/png' href='{PATH}/assets/favicon-32x32.png'>",
            ),
        ],
    )


def complete_document(app: Litestar) -> None:
    """Say of every operation that its errors are problem documents, in place of Litestar's own form of them, and give
    those that have none a readable summary. Once, before the document is read."""
    # Litestar would make up random values; examples are those that a field gives.
    routes = (route for route in app.routes if isinstance(route, HTTPRoute))
    for handler in (handler for route in routes for handler in route.route_handlers):
        for spec in (handler.responses or {}).values():
            spec.generate_examples = False
    document = app.openapi_schema
    schema = Reference(ref="#/components/schemas/Problem")
    content = {MEDIA_TYPE: OpenAPIMediaType(schema=schema)}
    for name, path in (document.paths or {}).items():
        for operation in (path.get, path.post, path.put, path.patch, path.delete):
            if operation is None or operation.responses is None:
                continue
            if operation.summary and " " not in operation.summary:
                # A handler's name, CreateRun, as words.
                operation.summary = re.sub(r"(?<=.)([A-Z])", lambda at: f" {at[1].lower()}", operation.summary)
            if operation.request_body is not None and name in EXAMPLES and operation in (path.post, path.put):
                body: Any = operation.request_body
                body.content["application/json"].example = EXAMPLES[name]
            keyed = not {"health"} & set(operation.tags or ())
            if not keyed:
                operation.security = [{}]
            has_parameters, has_body = bool(operation.parameters), operation.request_body is not None
            applies = {"400": has_parameters or has_body, "401": keyed, "404": has_parameters}
            applies |= {"413": has_body, "422": has_body}
            operation.responses.pop("400", None)
            for status, meaning in PROBLEMS.items():
                if applies[status]:
                    operation.responses.setdefault(status, OpenAPIResponse(description=meaning, content=content))
            operation.responses["default"] = OpenAPIResponse(description="Any other refusal.", content=content)
