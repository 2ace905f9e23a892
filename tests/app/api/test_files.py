"""/v1/files: bytes come back as they went in, to their tenant alone."""

from __future__ import annotations

import httpx
import pytest

from tests.app.api.conftest import MAX_BODY, Keys, Running

DATA = b"%PDF-1.4 \x00\x01 caf\xc3\xa9"


@pytest.fixture
def acme(running: Running, keys: Keys) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.url, headers={"Authorization": f"Bearer {keys.acme}"})


async def test_a_file_comes_back_as_it_went_in(acme: httpx.AsyncClient) -> None:
    created = await acme.post(
        "/v1/files", params={"filename": "réport.pdf"}, content=DATA, headers={"Content-Type": "application/pdf"}
    )
    assert created.status_code == 201
    file = created.json()
    assert created.headers["Location"] == f"/v1/files/{file['id']}"
    assert (file["filename"], file["media_type"], file["bytes"]) == ("réport.pdf", "application/pdf", len(DATA))
    assert (await acme.get(f"/v1/files/{file['id']}")).json() == file
    content = await acme.get(f"/v1/files/{file['id']}/content")
    assert content.content == DATA
    assert content.headers["Content-Type"] == "application/pdf"
    assert content.headers["X-Content-Type-Options"] == "nosniff"
    assert content.headers["Content-Disposition"].startswith("attachment")


async def test_a_file_is_its_tenants_alone(acme: httpx.AsyncClient, running: Running, keys: Keys) -> None:
    file = (await acme.post("/v1/files", params={"filename": "a"}, content=DATA)).json()
    async with httpx.AsyncClient(base_url=running.url, headers={"Authorization": f"Bearer {keys.other}"}) as other:
        for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
            refused = await other.get(path)
            assert (refused.status_code, refused.headers["Content-Type"]) == (404, "application/problem+json")


async def test_what_cannot_be_kept_is_a_problem(acme: httpx.AsyncClient) -> None:
    for params, size, status in (({"filename": "a"}, MAX_BODY + 1, 413), ({}, 1, 400), ({"filename": ""}, 1, 400)):
        refused = await acme.post("/v1/files", params=params, content=bytes(size))
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.status_code == status, refused.text
        if status == 413:
            assert f"over {MAX_BODY:,} bytes" in refused.json()["detail"]


async def test_an_unknown_id_is_a_problem(acme: httpx.AsyncClient) -> None:
    for file_id in ("0", "12", "x", "9" * 30, "-1"):
        refused = await acme.get(f"/v1/files/{file_id}/content")
        assert (refused.status_code, refused.json()["type"]) == (404, "urn:howdah:problem:unknown-file")
