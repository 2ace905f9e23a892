"""The example workflows on a real engine: what they find, refuse, cite, record and deliver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from howdah.jobs.examples.app import app as examples
from howdah.jobs.examples.review.types import DocumentReview, Report
from howdah.jobs.models import Models, compose_models, publish_catalogue
from howdah.sql.pool import Connection
from howdah.sql.retrieval.calls import create_collection, put_file, read_file
from tests.jobs.conftest import Work
from tests.jobs.documents.test_extract import pdf
from tests.loopback_receiver import Receiver, Reply
from tests.openai_server import Answer, openai_server

MIT = (Path(__file__).parents[3] / "LICENSE").read_bytes()
LGPL = b"""GNU LESSER GENERAL PUBLIC LICENSE
Version 3, 29 June 2007

This version of the GNU Lesser General Public License incorporates the terms and conditions of version 3 of the GNU
General Public License, supplemented by the additional permissions listed below. As used herein, "this License" refers
to version 3 of the GNU Lesser General Public License.

You may convey a Combined Work under terms of your choice. You must convey the Minimal Corresponding Source under the
terms of this License. You must give prominent notice with each copy of the Combined Work that the Library is used.
"""


@pytest.fixture
async def offline(connection: Connection) -> Models:
    models = await publish_catalogue(connection, compose_models())
    await create_collection(connection, "default", "reviewed", models.embedder.name, models.embedder.dimensions)
    examples.perform_import_paths()
    return models


async def hand_in(connection: Connection, name: str, data: bytes) -> int:
    """Enqueue a review of one document; the run's id."""
    file = await put_file(connection, "default", name, "application/octet-stream", data)
    workflow = examples.workflows["review.document"]
    return await workflow.enqueue_in(connection, file=str(file), name=name, collection="reviewed")


async def ended(connection: Connection, run: int) -> tuple[str, Any, Any]:
    """State, output and error of a finished run."""
    query = "select state, output::text, error from run_history where id = %s"
    row = await (await connection.execute(query, [run])).fetchone()
    assert row is not None, "the run has not ended"
    return row[0], row[1], row[2]


async def test_a_licence_is_known_quoted_and_stored(connection: Connection, offline: Models, work: Work) -> None:
    run = await hand_in(connection, "LICENSE", MIT)
    await work(examples, resources={Models: offline})
    state, output, _ = await ended(connection, run)
    assert state == "succeeded"
    review = msgspec.json.decode(output, type=DocumentReview)
    assert (review.reading.kind, review.reading.family) == ("licence", "MIT")
    assert review.chosen.model == "howdah-extract-deep"
    assert "complexity" in review.chosen.why
    assert review.key_sentences.label == "key sentences"
    assert review.cost is None
    text = MIT.decode()
    assert review.obligations.items
    for quote in (*review.key_sentences.items, *review.obligations.items):
        assert text[quote.start : quote.end] == quote.text
    rows = await (await connection.execute("select step, model, cost from model_call order by step")).fetchall()
    assert rows == [("key sentences", "howdah-extract-deep", None), ("obligations", "howdah-extract-deep", None)]
    notes = await (
        await connection.execute("select data ->> 'note' from event where type = 'howdah.progress' order by seq")
    ).fetchall()
    assert {note for (note,) in notes} == {"extract", "classify", "choose", "key sentences", "obligations", "store"}


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("empty.txt", b"", "is empty (0 bytes)"),
        ("scan.pdf", b"not a pdf at all", "is a PDF that is none"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "photo.png"),
    ],
)
async def test_a_document_that_cannot_be_read_is_refused_with_a_sentence_at_once(
    connection: Connection, offline: Models, work: Work, name: str, data: bytes, sentence: str
) -> None:
    refused, fine = await hand_in(connection, name, data), await hand_in(connection, "LICENSE", MIT)
    await work(examples, resources={Models: offline})
    state, _, error = await ended(connection, refused)
    assert state == "failed"
    assert sentence in error["message"]
    attempts = await (await connection.execute("select attempt from run_history where id = %s", [refused])).fetchone()
    assert attempts == (1,), "trying again cannot help"
    assert (await ended(connection, fine))[0] == "succeeded"


async def test_a_pdf_and_a_page_of_html_are_read(connection: Connection, offline: Models, work: Work) -> None:
    runs = [
        await hand_in(connection, "a.pdf", pdf("The tenant shall keep the garden in order.")),
        await hand_in(connection, "a.html", b"<html><body><h1>Rules</h1><p>You must not smoke.</p></body></html>"),
    ]
    await work(examples, resources={Models: offline})
    for run, sentence in zip(runs, ("shall keep the garden", "must not smoke"), strict=True):
        state, output, _ = await ended(connection, run)
        assert state == "succeeded"
        quotes = msgspec.json.decode(output, type=DocumentReview).obligations.items
        assert any(sentence in quote.text for quote in quotes)


async def test_the_answer_names_those_who_oblige_cites_them_and_is_delivered_once(
    connection: Connection, offline: Models, work: Work
) -> None:
    runs = [await hand_in(connection, "mit/LICENSE", MIT), await hand_in(connection, "lgpl/COPYING", LGPL)]
    await work(examples, resources={Models: offline})
    with Receiver(Reply(429, headers={"Retry-After": "0"}), Reply(500), Reply(201)) as receiver:
        report = await examples.workflows["review.report"].enqueue_in(
            connection,
            question="Which of these oblige me to disclose source code?",
            collection="reviewed",
            runs=[str(run) for run in runs],
            deliver_to=receiver.url,
        )
        await work(examples, resources={Models: offline})
        assert len({request.headers["idempotency-key"] for request in receiver.received}) == 1
    state, output, error = await ended(connection, report)
    assert state == "succeeded", error
    found = msgspec.json.decode(output, type=Report)
    assert [finding.family for finding in found.answer.families] == ["LGPL-3.0"]
    assert found.answer.label == "passages found"
    assert found.delivered_status == 201
    for cited in (*found.answer.families[0].obligations, *found.answer.passages):
        row = await (
            await connection.execute(
                "select c.start_char, c.end_char from chunk as c where document_id = %s and ordinal = %s",
                [int(cited.document_id), cited.chunk],
            )
        ).fetchone()
        assert row is not None
        assert row[0] <= cited.start < row[1]
    file = await read_file(connection, "default", int(found.markdown_file))
    assert file is not None
    assert b"Minimal Corresponding Source" in file[2]


async def test_a_real_model_is_recorded_with_its_tokens_and_cost_and_falls_back_when_it_fails(
    connection: Connection, offline: Models, work: Work
) -> None:
    quote = "Permission is hereby granted, free of charge"
    good = Answer(json.dumps({"text": "A permissive licence.", "quotes": [{"text": quote}]}), usage=(1000, 100))
    with openai_server() as server:
        server.script([good, good])
        models = await publish_catalogue(connection, compose_models("a key", server.base_url))
        run = await hand_in(connection, "LICENSE", MIT)
        await work(examples, resources={Models: models})
    state, output, error = await ended(connection, run)
    assert state == "succeeded", error
    review = msgspec.json.decode(output, type=DocumentReview)
    assert review.key_sentences.label == "summary"
    assert review.key_sentences.text == "A permissive licence."
    assert review.cost is not None
    rows = await (
        await connection.execute("select status, input_tokens, output_tokens, cost > 0 from model_call")
    ).fetchall()
    assert rows == [("ok", 1000, 100, True)] * 2

    # The server is gone: the built-in model takes over, and both attempts are on record.
    run = await hand_in(connection, "LICENSE-2", MIT)
    await work(examples, resources={Models: models})
    state, output, error = await ended(connection, run)
    assert state == "succeeded", error
    assert msgspec.json.decode(output, type=DocumentReview).key_sentences.label == "key sentences"
    statuses = await (
        await connection.execute("select status, count(*) from model_call where run_id = %s group by 1", [run])
    ).fetchall()
    assert dict(statuses)["ok"] == 2
    assert dict(statuses)["error"] >= 2


async def test_a_disabled_model_is_not_chosen(connection: Connection, offline: Models, work: Work) -> None:
    await connection.execute("update model set enabled = false where name = 'howdah-extract-deep'")
    models = await publish_catalogue(connection, compose_models())
    run = await hand_in(connection, "LICENSE", MIT)
    await work(examples, resources={Models: models})
    _, output, _ = await ended(connection, run)
    assert msgspec.json.decode(output, type=DocumentReview).chosen.model == "howdah-extract-fast"
