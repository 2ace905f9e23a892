"""What surrounds the resources: problem documents everywhere, health, metrics, the OpenAPI document and its page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import psycopg
import pytest

from howdah.app.api.application import create_app
from howdah.app.api.openapi import EXAMPLES
from howdah.app.composition import open_resources
from howdah.app.settings import Settings
from howdah.sql.errors import DatabaseUnfit
from tests.app.api.conftest import Keys, Running, as_problem

METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture
def document(settings: Settings) -> dict[str, Any]:
    return create_app(settings, "postgresql://nowhere").openapi_schema.to_schema()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


async def test_every_route_answers_its_errors_with_problem_documents(
    client: httpx.AsyncClient, keys: Keys, document: dict[str, Any]
) -> None:
    walked = 0
    for path, method, operation in operations(document):
        url = re.sub(r"\{[^}]+\}", "nobody-has-this", path)
        keyed = operation.get("security") != [{}]
        if keyed:
            assert (await client.request(method, url)).status_code == 401, (method, url)
        headers = {"Authorization": f"Bearer {keys.admin}", "Howdah-Tenant": "nobody", "Content-Type": "text/csv"}
        for attempt in (
            client.request(method, url),
            client.request(method, url, headers=headers, content=b"{" if operation.get("requestBody") else None),
            client.request(method, url, headers=headers | {"Content-Type": "application/json"}, content=b'{"no": 1}'),
            client.request(method, f"{url}?limit=x&cursor=x&wait=x&after=x", headers=headers),
            client.request("TRACE", url, headers=headers),
            client.request("PUT", url, headers=headers),
            client.get(f"{url}/no/such/path", headers=headers),
        ):
            response = await attempt
            assert response.status_code < 500, (method, url, response.text)
            if response.status_code >= 400:
                walked += 1
                assert response.headers["content-type"].split(";")[0] == "application/problem+json", (method, url)
                assert {"type", "title", "status", "detail", "instance"} <= set(response.json())
    assert walked > 100


async def test_a_method_that_a_path_does_not_have_is_named_as_such(api: httpx.AsyncClient) -> None:
    as_problem(await api.put("/v1/runs", json={}), 405, "method-not-allowed")
    as_problem(await api.get("/v1/nothing"), 404, "not-found")


async def test_an_error_of_ours_tells_nothing_of_our_insides(api: httpx.AsyncClient, db: psycopg.Connection) -> None:
    db.execute("alter table model rename column quality to rank")
    problem = as_problem(await api.get("/v1/models"), 500, "internal-error")
    assert "quality" not in str(problem)


async def test_health_tells_whether_the_schema_is_there(client: httpx.AsyncClient, db: psycopg.Connection) -> None:
    assert (await client.get("/health/live")).json() == {"status": "ok"}
    assert (await client.get("/health/ready")).json() == {"status": "ok"}
    db.execute("alter function claim_runs rename to claim_runs_of_old")
    problem = as_problem(await client.get("/health/ready"), 503, "database-unfit")
    assert problem["code"] == "HW017"
    assert "claim_runs()" in problem["detail"]
    assert "howdah migrate" in problem["detail"]
    assert (await client.get("/health/live")).status_code == 200


async def test_a_database_without_the_schema_is_refused_at_the_start(settings: Settings, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("drop schema howdah cascade")
    with pytest.raises(DatabaseUnfit, match="howdah migrate"):
        async with open_resources(settings, database_url):
            pass


async def test_metrics_count_by_route_not_by_path(api: httpx.AsyncClient, task: str) -> None:
    for n in range(3):
        await api.post("/v1/runs", json={"task": task, "args": {"id": n}})
        await api.get(f"/v1/runs/{n}")
        await api.get(f"/no/such/{n}")
    del api.headers["Authorization"]
    text = (await api.get("/metrics")).text
    assert 'howdah_runs_enqueued_total{outcome="created"} 3.0' in text
    assert 'howdah_http_request_seconds_count{method="POST",route="/v1/runs",status="201"} 3.0' in text
    assert 'howdah_http_request_seconds_count{method="GET",route="/v1/runs/{run_id}",status="404"} 3.0' in text
    assert 'route="unmatched",status="404"} 3.0' in text
    assert "howdah_database_pool_size " in text
    assert "howdah_build_info{version=" in text


def test_the_document_is_openapi_3_1_and_complete(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    paths = set(document["paths"])
    assert {
        "/v1/runs", "/v1/runs/batch", "/v1/runs/{run_id}", "/v1/runs/{run_id}/cancel", "/v1/runs/{run_id}/requeue",
        "/v1/runs/{run_id}/steps", "/v1/sessions", "/v1/sessions/{session_id}/events", "/v1/stream-tokens",
        "/v1/sessions/{session_id}/partials",
        "/v1/collections", "/v1/tenants", "/v1/tenants/{tenant_id}/keys", "/v1/queues", "/v1/models",
        "/health/live", "/health/ready",
    } <= paths  # fmt: skip
    ids = []
    for path, method, operation in operations(document):
        ids.append(operation["operationId"])
        assert operation["tags"], (method, path)
        assert operation["summary"], (method, path)
        assert operation["responses"]["default"]["content"].keys() == {"application/problem+json"}, (method, path)
        assert any(status.startswith("2") for status in operation["responses"]), (method, path)
        in_path = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert in_path == set(re.findall(r"\{([^}]+)\}", path))
        assert not {p["name"] for p in operation.get("parameters", [])} & {"caller", "resources", "metrics"}
    assert len(ids) == len(set(ids))
    for reference in re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(document)):
        assert reference in document["components"]["schemas"]
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("properties") is not None or "enum" in schema, name


def test_every_example_of_a_body_fits_its_schema(document: dict[str, Any]) -> None:
    found = 0
    for path, method, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in content:
            found += 1
            schema = content["schema"] | {"components": document["components"]}
            jsonschema.validate(content["example"], schema, cls=jsonschema.Draft202012Validator)
            known = document["components"]["schemas"][schema["$ref"].split("/")[-1]]["properties"]
            assert set(content["example"]) <= set(known), (method, path)
    assert found == len(EXAMPLES)


async def test_the_docs_page_asks_no_other_host_for_anything(client: httpx.AsyncClient) -> None:
    page = await client.get("/schema")
    assert page.status_code == 200
    assets = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(assets) == 4
    for asset in assets:
        assert asset.startswith("/schema/assets/")
        response = await client.get(asset)
        assert response.status_code == 200
        assert len(response.content) > 500
        kind = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "png": "image/png"}
        assert response.headers["content-type"] == kind[asset.rpartition(".")[2]]
    as_problem(await client.get("/schema/assets/index.html"), 404, "not-found")
    as_problem(await client.get("/schema/assets/..%2f__init__.py"), 404, "not-found")
    assert (await client.get("/schema/openapi.json")).json()["openapi"].startswith("3.1")


async def test_more_who_wait_than_allowed_are_told_to_come_back(
    api: httpx.AsyncClient, running: Running, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("howdah.app.run_waiter.MAX_WAITERS", 0)
    run_id = (await api.post("/v1/runs", json={"task": task, "args": {"id": 7}})).json()["id"]
    response = await api.get(f"/v1/runs/{run_id}?wait=1")
    as_problem(response, 503, "too-many-waiters")
    assert response.headers["retry-after"] == "1"
