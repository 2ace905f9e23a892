"""`review.document`: one document, from its bytes to its quotes and its place in a collection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from hashlib import sha256
from typing import ParamSpec, TypeVar

from procrastinate import RetryStrategy

from howdah.jobs.documents import ingestion
from howdah.jobs.documents.classify import classify
from howdah.jobs.documents.extract import DocumentRefused, Extracted, extract
from howdah.jobs.errors import NonRetryableError
from howdah.jobs.examples.app import app
from howdah.jobs.examples.review.types import Chosen, DocumentReview, Excerpt, Excerpts, Reading, Stored, Text
from howdah.jobs.models import Models
from howdah.jobs.workflow.run import Run
from howdah.router import Choice, Need, Purpose, Request, measure
from howdah.sql.retrieval.calls import read_file, read_file_text, set_file_text

P = ParamSpec("P")
R = TypeVar("R")

QUEUE = "review"
# A reader looks at a handful of sentences; a licence of the longest kind has under forty obligations.
KEY_SENTENCES = 5
OBLIGATIONS = 40
# How far a review is after each step.
PROGRESS = {"extract": 0.15, "classify": 0.3, "choose": 0.4, "key sentences": 0.55, "obligations": 0.7, "store": 1.0}


@app.workflow(name="review.document", queue=QUEUE, retry=RetryStrategy(max_attempts=3, wait=1))
async def review_document(run: Run, file: str, name: str, collection: str) -> DocumentReview:
    """Review one file: extract, classify, choose a model, quote key sentences and obligations, store for retrieval."""
    text = await reported(run, "extract", extract_text, run, file)
    reading = await reported(run, "classify", read, run, file, name)
    chosen = await reported(run, "choose", choose, run, reading)
    key_sentences, obligations = await asyncio.gather(
        reported(run, "key sentences", quote, run, file, "key_sentences", KEY_SENTENCES, chosen),
        reported(run, "obligations", quote, run, file, "obligations", OBLIGATIONS, chosen),
    )
    stored = await reported(run, "store", store, run, file, name, collection, text, reading)
    costs = [part.cost for part in (key_sentences, obligations) if part.cost is not None]
    cost = sum(costs, Decimal(0)) if costs else None
    return DocumentReview(name, text.title, reading, chosen, key_sentences, obligations, stored, cost)


async def reported(run: Run, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """A step that says when it is done."""
    output = await run.step(name, function, *args, **kwargs)
    await run.progress(PROGRESS[name], name)
    return output


async def extract_text(run: Run, file: str) -> Text:
    """The text goes beside its file: a checkpoint is for what is small."""
    async with run.pool.connection() as connection:
        found = await read_file(connection, run.tenant_id, int(file))
    if found is None:
        raise LookupError(f"file {file} is gone: hand it in again and enqueue a new run")
    filename, _, data = found
    try:
        extracted = await asyncio.to_thread(extract, data, filename)
    except DocumentRefused as refused:
        raise NonRetryableError(str(refused)) from refused
    async with run.pool.connection() as connection:
        await set_file_text(connection, run.tenant_id, int(file), extracted.text)
    return Text(extracted.title, extracted.media_type, len(extracted.text), sha256(data).hexdigest(), len(data))


async def read(run: Run, file: str, name: str) -> Reading:
    """What the document is, by its own words; the name only helps."""
    text = await text_of(run, file)
    found = await asyncio.to_thread(classify, text, name)
    measured = await asyncio.to_thread(measure, text, found.kind)
    return Reading(found.kind, found.family, found.families, found.why, measured.tokens, measured.complexity)


async def choose(run: Run, reading: Reading) -> Chosen:
    """The model by type, length and complexity."""
    need = Need(kind=reading.kind, tokens=reading.tokens, complexity=reading.complexity, purpose="obligations")
    choice = run.resource(Models).router(run).choose(need)
    return Chosen(choice.model.name, choice.why, tuple(model.name for model in choice.fallbacks))


async def quote(run: Run, file: str, purpose: Purpose, limit: int, chosen: Chosen) -> Excerpts:
    """Verbatim quotes from the text, by the chosen model."""
    text = await text_of(run, file)
    models = run.resource(Models)
    router = models.router(run)
    by_name = {model.name: model for model in models.catalogue}
    fallbacks = tuple(by_name[name] for name in chosen.fallbacks if name in by_name)
    choice = Choice(by_name[chosen.model], chosen.why, fallbacks)
    completion = await router.complete(Request(purpose=purpose, text=text, max_items=limit), choice)
    items = tuple(Excerpt(item.text, item.start, item.end, item.kind) for item in completion.items)
    # What the offline models quote is in the items; only a real model has a text of its own.
    own_text = "" if completion.cost is None else completion.text
    return Excerpts(completion.label, completion.model, own_text, items, completion.cost)


async def store(run: Run, file: str, name: str, collection: str, text: Text, reading: Reading) -> Stored:
    """Chunks and their embeddings, under the document's name: a second review replaces the first."""
    content = await text_of(run, file)
    try:
        pieces = await ingestion.cut(content)
    except DocumentRefused as refused:
        raise NonRetryableError(str(refused)) from refused
    chunks = await ingestion.embed(run.resource(Models).embedder, pieces)
    metadata = {"kind": reading.kind, "family": reading.family, "families": reading.families}
    source = ingestion.Source(run.tenant_id, collection, name, bytes.fromhex(text.sha256), text.bytes, metadata, run.id)
    async with run.pool.connection() as connection:
        stored = await ingestion.store(connection, source, Extracted(content, text.media_type, text.title), chunks)
    return Stored(str(stored.document_id), stored.chunks, tuple(piece.start for piece in pieces))


async def text_of(run: Run, file: str) -> str:
    """The text that step `extract` kept."""
    async with run.pool.connection() as connection:
        text = await read_file_text(connection, run.tenant_id, int(file))
    if text is None:
        raise LookupError(f"file {file} has no text: its step `extract` did not run, or the file was deleted")
    return text
