"""Collections over HTTP: documents handed in, found again, replaced, refused with a sentence, deleted."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import psycopg
import pytest
from pypdf import PdfWriter

from tests.app.api.test_sessions import problem
from tests.app.api_servers import api_thread, client_for

DOCUMENTS = "/v1/collections/contracts/documents"
SEARCH = "/v1/collections/contracts/search"
LEASE = b"""# Lease

The tenant shall pay the rent on the first day of each month.

## Garden

Elephants may be kept in the garden if the landlord agrees in writing.
"""


@pytest.fixture(autouse=True)
def contracts(acme: httpx.Client) -> None:
    assert acme.post("/v1/collections", json={"name": "contracts"}).status_code == 201


def put(client: httpx.Client, data: bytes = LEASE, filename: str = "lease.md", **query: Any) -> dict[str, Any]:
    response = client.post(DOCUMENTS, content=data, params={"filename": filename, **query})
    assert response.status_code == 201, response.text
    document: dict[str, Any] = response.json()
    assert client.get(response.headers["location"]).json() == document
    return document


def stored(db: psycopg.Connection) -> int:
    row = db.execute("select (select count(*) from document) + (select count(*) from chunk)").fetchone()
    assert row is not None
    return int(row[0])


def test_a_collection_is_made_once_and_found_again(acme: httpx.Client) -> None:
    again = acme.post("/v1/collections", json={"name": "contracts"})
    assert again.status_code == 200
    assert acme.get("/v1/collections/contracts").json() == again.json()
    assert (again.json()["embedding_model"], again.json()["dimensions"]) == ("howdah-wordllama-256", 256)
    for name in ("a", "b"):
        acme.post("/v1/collections", json={"name": name})
    first = acme.get("/v1/collections", params={"limit": 2}).json()
    second = acme.get("/v1/collections", params={"limit": 2, "cursor": first["next"]}).json()
    assert [c["name"] for c in first["items"] + second["items"]] == ["a", "b", "contracts"]
    assert second["next"] is None


def test_a_collection_of_a_model_that_is_not_here_is_refused(acme: httpx.Client) -> None:
    detail = problem(acme.post("/v1/collections", json={"name": "x", "embedding_model": "gpt"}), 422, "HW012")
    assert "howdah-wordllama-256" in detail
    problem(acme.get("/v1/collections/x"), 404, "HW011")


def test_a_document_of_another_model_s_collection_is_refused(acme: httpx.Client, db: psycopg.Connection) -> None:
    db.execute("select create_collection('acme', 'elsewhere', 'another-model', 256)")
    problem(acme.post("/v1/collections/elsewhere/documents", content=LEASE), 422, "HW012")
    problem(acme.post("/v1/collections/elsewhere/search", json={"query": "rent"}), 422, "HW012")
    assert stored(db) == 0


def test_a_document_is_stored_with_its_chunks(acme: httpx.Client, db: psycopg.Connection) -> None:
    document = put(acme, metadata=json.dumps({"kind": "lease"}))
    assert {name: document[name] for name in ("collection", "key", "title", "media_type", "bytes", "metadata")} == {
        "collection": "contracts",
        "key": "lease.md",
        "title": "Lease",
        "media_type": "text/markdown",
        "bytes": len(LEASE),
        "metadata": {"kind": "lease"},
    }
    assert document["chunks"] >= 1
    assert document["tokens"] > 20
    rows = db.execute("select content, start_char, end_char from chunk order by ordinal").fetchall()
    assert len(rows) == document["chunks"]
    assert all(LEASE.decode()[start:end] == content for content, start, end in rows)


def test_the_same_key_again_replaces_the_document(acme: httpx.Client, db: psycopg.Connection) -> None:
    first = put(acme)
    before = stored(db)
    assert put(acme)["id"] == first["id"]
    assert stored(db) == before
    second = put(acme, b"The new lease has no garden.", "other.txt", key="lease.md")
    assert (second["id"], second["key"], second["chunks"]) == (first["id"], "lease.md", 1)
    assert stored(db) == 2


def test_a_file_s_name_may_come_in_its_header_or_in_a_form(acme: httpx.Client) -> None:
    header = {"Content-Disposition": "attachment; filename*=UTF-8''b%C3%A9.md"}
    assert acme.post(DOCUMENTS, content=LEASE, headers=header).json()["key"] == "bé.md"
    form = acme.post(DOCUMENTS, files={"file": ("form.md", LEASE, "text/markdown")})
    assert (form.status_code, form.json()["key"], form.json()["bytes"]) == (201, "form.md", len(LEASE))
    nameless = acme.post(DOCUMENTS, content=b"<p>Hello there</p>", headers={"Content-Type": "text/html"}).json()
    assert (nameless["media_type"], nameless["key"]) == ("text/html", nameless["sha256"])
    problem(acme.post(DOCUMENTS, files=[("a", ("a", b"x y z")), ("b", ("b", b"x y z"))]), 422)


def test_search_finds_the_passage_and_says_where_it_is(acme: httpx.Client) -> None:
    put(acme, metadata='{"kind": "lease"}')
    put(acme, b"A recipe for bread: flour, water, salt and patience.", "bread.txt", metadata='{"kind": "recipe"}')
    results = acme.post(SEARCH, json={"query": "May I keep elephants?"}).json()["results"]
    assert results[0]["key"] == "lease.md"
    assert "Elephants" in results[0]["content"]
    assert LEASE.decode()[results[0]["start"] : results[0]["end"]] == results[0]["content"]
    assert [r["key"] for r in acme.post(SEARCH, json={"query": "rent", "limit": 1}).json()["results"]] == ["lease.md"]
    filtered = acme.post(SEARCH, json={"query": "elephants", "metadata": {"kind": "recipe"}}).json()["results"]
    assert {result["key"] for result in filtered} == {"bread.txt"}


def test_a_deleted_document_is_gone_with_its_chunks(acme: httpx.Client, db: psycopg.Connection) -> None:
    document = put(acme)
    path = f"{DOCUMENTS}/{document['id']}"
    assert acme.delete(path).status_code == 204
    problem(acme.delete(path), 404)
    problem(acme.get(path), 404)
    assert stored(db) == 0


def test_pages_hold_every_document_once(acme: httpx.Client) -> None:
    ids = [put(acme, filename=f"{number}.md")["id"] for number in range(3)]
    first = acme.get(DOCUMENTS, params={"limit": 2}).json()
    second = acme.get(DOCUMENTS, params={"limit": 2, "cursor": first["next"]}).json()
    assert [d["id"] for d in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None
    problem(acme.get(DOCUMENTS, params={"cursor": "nonsense"}), 400)


def test_another_tenant_finds_nothing(acme: httpx.Client, other: httpx.Client, db: psycopg.Connection) -> None:
    document = put(acme)
    before = stored(db)
    problem(other.get("/v1/collections/contracts"), 404, "HW011")
    problem(other.get(DOCUMENTS), 404, "HW011")
    problem(other.post(DOCUMENTS, content=LEASE), 404, "HW011")
    problem(other.post(SEARCH, json={"query": "rent"}), 404, "HW011")
    other.post("/v1/collections", json={"name": "contracts"})
    problem(other.get(f"{DOCUMENTS}/{document['id']}"), 404)
    problem(other.delete(f"{DOCUMENTS}/{document['id']}"), 404)
    assert other.post(SEARCH, json={"query": "rent"}).json() == {"results": []}
    assert stored(db) == before


def test_a_document_that_cannot_be_read_is_refused_with_a_sentence(acme: httpx.Client, db: psycopg.Connection) -> None:
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.write(scanned := io.BytesIO())
    for name, data, said in (
        ("empty.txt", b"", "0 bytes"),
        ("blank.txt", b" \n ", "no text"),
        ("none.pdf", b"hello, I am no PDF", "none"),
        ("broken.pdf", b"%PDF-1.7\nnonsense", "damaged"),
        ("scanned.pdf", scanned.getvalue(), "scanned"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        ("noise.txt", bytes(range(256)) * 4, "not text"),
    ):
        assert said in problem(acme.post(DOCUMENTS, content=data, params={"filename": name}), 422)
    assert stored(db) == 0


def test_a_document_over_the_limit_is_refused(
    database_url: str, acme_key: str, acme: httpx.Client, db: psycopg.Connection
) -> None:
    problem(acme.post(DOCUMENTS, content=b"x" * 50_000_000), 413)

    def pieces() -> Any:
        for _ in range(50):
            yield b"x" * 1_000_000

    problem(acme.post(DOCUMENTS, content=pieces()), 413)
    with api_thread(database_url, max_body_bytes=1000) as url, client_for(url, acme_key) as client:
        problem(client.post(DOCUMENTS, files={"file": ("a.txt", b"word " * 1000)}), 413)
    assert stored(db) == 0


def test_bad_metadata_is_a_problem_and_nothing_is_stored(acme: httpx.Client, db: psycopg.Connection) -> None:
    for metadata, status, code in (
        ("{", 400, None),
        ("[]", 422, None),
        ('{"a": "\\u0000"}', 422, "HW016"),
        ('{"a": NaN}', 422, "HW016"),
    ):
        problem(acme.post(DOCUMENTS, content=LEASE, params={"metadata": metadata}), status, code)
    problem(acme.post(DOCUMENTS, content=LEASE, params={"filename": "a\0b.txt"}), 422, "HW016")
    assert stored(db) == 0


def test_bad_searches_are_problems(acme: httpx.Client) -> None:
    put(acme)
    for body in (
        {},
        {"query": ""},
        {"query": "  "},
        {"query": "rent", "limit": 0},
        {"query": "rent", "limit": 51},
        {"query": "x" * 8_193},
        {"query": "rent", "metadata": []},
    ):
        problem(acme.post(SEARCH, json=body), 422)
    problem(acme.post(SEARCH, json={"query": "a\0b"}), 422, "HW016")
    assert acme.post(SEARCH, json={"query": "!!! ' & | :*"}).status_code == 200
