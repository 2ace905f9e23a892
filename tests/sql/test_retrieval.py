"""Retrieval in SQL: collections, documents replaced as a whole, and search by meaning and by words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import errors

Vector = Sequence[float]
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@pytest.fixture(autouse=True)
def collection(db: psycopg.Connection) -> None:
    db.execute("select create_collection('default', 'notes', 'axes', 3)")


@pytest.fixture
def second(conninfo: str) -> Iterator[psycopg.Connection]:
    """A second connection."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


def put(
    db: psycopg.Connection,
    key: str,
    *chunks: tuple[str, Vector],
    collection: str = "notes",
    tenant: str = "default",
    metadata: dict[str, object] | None = None,
) -> int:
    row = db.execute(
        "select * from put_document(%s, %s, %s, 'A title', 'text/plain', '\\x00', 1, 1, %s, null,"
        " %s::integer[], %s::integer[], %s::integer[], %s::text[], %s::text[])",
        [
            tenant,
            collection,
            key,
            json.dumps(metadata or {}),
            [0] * len(chunks),
            [len(content) for content, _ in chunks],
            [1] * len(chunks),
            [content for content, _ in chunks],
            [json.dumps(list(vector)) for _, vector in chunks],
        ],
    ).fetchone()
    assert row is not None
    return int(row[0])


def search(
    db: psycopg.Connection, query: str, vector: Vector, limit: int = 10, metadata: str = "{}", tenant: str = "default"
) -> list[tuple[str, int]]:
    """(key, ordinal) of what is found, best first."""
    return db.execute(
        "select key, ordinal from search_chunks(%s, 'notes', %s, %s, %s, %s)",
        [tenant, query, json.dumps(list(vector)), limit, metadata],
    ).fetchall()


def state_of(error: pytest.ExceptionInfo[psycopg.Error]) -> str | None:
    return error.value.sqlstate


def test_a_collection_keeps_its_model_and_dimensions(db: psycopg.Connection) -> None:
    assert db.execute("select * from create_collection('default', 'notes', 'axes', 3)").fetchone() == (False,)
    for model, dimensions in (("axes", 4), ("other", 3)):
        with pytest.raises(psycopg.Error) as raised:
            db.execute("select create_collection('default', 'notes', %s, %s)", [model, dimensions])
        assert state_of(raised) == "HW012"


def test_a_collection_of_an_unknown_tenant_is_refused(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        db.execute("select create_collection('nobody', 'notes', 'axes', 3)")
    assert state_of(raised) == "HW009"


def test_a_collection_out_of_bounds_is_refused(db: psycopg.Connection) -> None:
    for name, dimensions in (("", 3), ("-x", 3), ("a b", 3), ("x", 0), ("x", 4001)):
        with pytest.raises(errors.CheckViolation):
            db.execute("select create_collection('default', %s, 'axes', %s)", [name, dimensions])


def test_a_document_for_an_unknown_collection_is_refused(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        put(db, "a", ("one", X), collection="nowhere")
    assert state_of(raised) == "HW011"


def test_a_document_with_a_vector_of_other_dimensions_is_refused_whole(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        put(db, "a", ("one", X), ("two", (1.0, 0.0)))
    assert state_of(raised) == "HW012"
    assert db.execute("select (select count(*) from document) + (select count(*) from chunk)").fetchone() == (0,)


def test_the_same_key_replaces_the_document_and_all_its_chunks(db: psycopg.Connection) -> None:
    first = put(db, "a", ("one", X), ("two", Y), ("three", Z))
    assert put(db, "a", ("other", Z)) == first
    assert db.execute("select ordinal, content from chunk").fetchall() == [(0, "other")]
    assert put(db, "b", ("one", X)) != first


def test_a_document_replaced_by_two_at_once_has_the_chunks_of_one(
    db: psycopg.Connection, second: psycopg.Connection, conninfo: str
) -> None:
    with ThreadPoolExecutor(1) as threads, psycopg.connect(conninfo, autocommit=True) as watcher:
        with db.transaction():
            first = put(db, "a", ("one", X), ("two", Y))
            late = threads.submit(put, second, "a", ("other", Z))
            for _ in range(100_000):
                row = watcher.execute("select pg_blocking_pids(%s)", [second.info.backend_pid]).fetchone()
                if row is not None and row[0]:
                    break
            else:
                pytest.fail("the second transaction did not wait")
        assert late.result(30) == first
    assert db.execute("select ordinal, content from chunk").fetchall() == [(0, "other")]


def test_a_deleted_document_is_not_found_again(db: psycopg.Connection) -> None:
    document = put(db, "a", ("elephant", X))
    assert db.execute("select * from delete_document('default', 'other', %s)", [document]).fetchone() == (False,)
    assert db.execute("select * from delete_document('default', 'notes', %s)", [document]).fetchone() == (True,)
    assert db.execute("select * from delete_document('default', 'notes', %s)", [document]).fetchone() == (False,)
    assert search(db, "elephant", X) == []
    assert db.execute("select count(*) from chunk").fetchone() == (0,)


def test_what_means_the_same_is_found_without_a_word_in_common(db: psycopg.Connection) -> None:
    put(db, "near", ("alpha", (0.9, 0.1, 0.0)))
    put(db, "far", ("beta", Z))
    assert search(db, "gamma", X)[0] == ("near", 0)


def test_what_holds_the_words_is_found_although_it_means_something_else(db: psycopg.Connection) -> None:
    for number in range(30):
        put(db, f"near{number}", ("alpha", X))
    put(db, "words", ("the elephants are walking", Z))
    assert search(db, "an elephant walks", X)[0] == ("words", 0)


def test_what_is_best_in_both_is_first(db: psycopg.Connection) -> None:
    put(db, "meaning", ("alpha", (0.9, 0.1, 0.0)))
    put(db, "words", ("elephant among a great many other animals", Z))
    put(db, "both", ("elephant", X))
    assert search(db, "elephant", X)[0] == ("both", 0)


def test_distance_is_the_cosine_s(db: psycopg.Connection) -> None:
    put(db, "a", ("one", X), ("two", Y), ("three", (-1.0, 0.0, 0.0)))
    rows = db.execute(
        "select ordinal, round(distance::numeric, 3)::float8 from search_chunks('default', 'notes', '', '[1,0,0]')"
    ).fetchall()
    assert rows == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_no_more_is_found_than_asked_for(db: psycopg.Connection) -> None:
    put(db, "a", *((f"elephant {number}", X) for number in range(20)))
    assert len(search(db, "elephant", X, limit=7)) == 7


def test_only_documents_with_the_metadata_are_found(db: psycopg.Connection) -> None:
    put(db, "gpl", ("elephant", X), metadata={"family": "copyleft", "year": 2007})
    put(db, "mit", ("elephant", X), metadata={"family": "permissive"})
    put(db, "none", ("elephant", X))
    assert search(db, "elephant", X, metadata='{"family": "copyleft"}') == [("gpl", 0)]
    assert search(db, "elephant", X, metadata='{"family": "copyleft", "year": 1991}') == []


def test_a_rare_document_is_found_among_many_that_the_filter_leaves_out(db: psycopg.Connection) -> None:
    db.execute("select create_collection('default', 'wide', 'axes', 256)")
    db.execute(
        """
        select put_document('default', 'wide', 'd' || n, 't', 'text/plain', '\\x00', 1, 1,
                            case when n = 2000 then '{"kind": "rare"}' else '{"kind": "usual"}' end::jsonb, null,
                            '{0}', '{1}', '{1}', array['text ' || n],
                            array['[1,' || n / 10000.0 || repeat(',0', 254) || ']'])
        from generate_series(1, 2000) as n
        """
    )
    db.execute("analyze")
    rows = db.execute(
        "select key from search_chunks('default', 'wide', 'nothing', '[1' || repeat(',0', 255) || ']', 5,"
        ' \'{"kind": "rare"}\')'
    ).fetchall()
    assert rows == [("d2000",)]


def test_tenants_do_not_find_each_other_s_documents(db: psycopg.Connection) -> None:
    db.execute("select create_tenant('acme')")
    db.execute("select create_collection('acme', 'notes', 'axes', 3)")
    put(db, "secret", ("elephant", X), tenant="acme")
    put(db, "mine", ("elephant", X))
    assert search(db, "elephant", X) == [("mine", 0)]
    assert search(db, "elephant", X, tenant="acme") == [("secret", 0)]


def test_a_query_of_marks_and_stop_words_is_no_error(db: psycopg.Connection) -> None:
    put(db, "a", ("elephant", X))
    for query in ("", "the of and", "' & | ! :* <-> ()", "a" * 5000, "\\"):
        assert search(db, query, X) == [("a", 0)]


def test_a_search_with_a_vector_of_other_dimensions_is_refused(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        search(db, "elephant", (1.0, 0.0))
    assert state_of(raised) == "HW012"


def test_a_search_in_an_unknown_collection_is_refused(db: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as raised:
        db.execute("select search_chunks('default', 'nowhere', 'x', '[1,0,0]')")
    assert state_of(raised) == "HW011"
