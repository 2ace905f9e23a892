"""`review.report`: a question answered from all reviews, written down, and delivered to an outside API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
from procrastinate import RetryStrategy

from howdah.jobs.examples.app import app
from howdah.jobs.examples.review.markdown import report_markdown
from howdah.jobs.examples.review.question import families_that_oblige, kinds_asked
from howdah.jobs.examples.review.types import Answer, Citation, DocumentReview, FullReport, Report
from howdah.jobs.models import Models
from howdah.jobs.workflow.run import Run
from howdah.router import Need, Request, estimate_tokens
from howdah.sql.retrieval.calls import put_file, search_chunks

PASSAGES = 8
DELIVERY_TIMEOUT = timedelta(seconds=10)


@app.workflow(name="review.report", queue="review", retry=RetryStrategy(max_attempts=3, wait=1))
async def review_report(
    run: Run, question: str, collection: str, runs: list[str], deliver_to: str | None = None
) -> Report:
    """Answer a question from finished reviews, write the report, and post it where it should go."""
    answer = await run.step("answer", answer_question, run, question, collection, runs)
    await run.progress(0.5, "answer")
    markdown_file, json_file = await run.step("write", write, run, answer, runs)
    await run.progress(0.75, "write")
    status = None
    if deliver_to is not None:
        response = await run.call(
            "deliver", "POST", deliver_to, json=msgspec.to_builtins(answer), timeout=DELIVERY_TIMEOUT
        )
        status = response.status
    await run.progress(1.0, "deliver")
    return Report(answer, markdown_file, json_file, status)


async def answer_question(run: Run, question: str, collection: str, runs: list[str]) -> Answer:
    """Obligations by licence family, and the passages that hybrid retrieval finds."""
    models = run.resource(Models)
    families = await families_that_oblige(question, await reviews_of(run, runs), models.embedder)
    (embedding,) = await models.embedder.embed([question])
    async with run.pool.connection() as connection:
        found = await search_chunks(
            connection, run.tenant_id, collection, question, embedding, PASSAGES, '{"kind": "licence"}'
        ) or await search_chunks(connection, run.tenant_id, collection, question, embedding, PASSAGES)
    passages = tuple(
        Citation(
            str(chunk.document_id),
            chunk.ordinal,
            chunk.key,
            chunk.start,
            chunk.end,
            chunk.content,
            msgspec.json.decode(chunk.metadata).get("family"),
        )
        for chunk in found
    )
    if not passages:
        return Answer(question, kinds_asked(question), families, (), "passages found", "", "", None)
    router = models.router(run)
    tokens = sum(estimate_tokens(passage.quote) for passage in passages)
    choice = router.choose(Need(kind="licence", tokens=tokens, complexity=0.5, purpose="answer"))
    request = Request(purpose="answer", question=question, passages=tuple(p.quote for p in passages))
    completion = await router.complete(request, choice)
    text = "" if completion.cost is None else completion.text
    return Answer(
        question, kinds_asked(question), families, passages, completion.label, text, completion.model, completion.cost
    )


async def write(run: Run, answer: Answer, runs: list[str]) -> tuple[str, str]:
    """The report as two files in the database; whoever asked fetches them by id."""
    reviews = await reviews_of(run, runs)
    markdown = report_markdown(answer, reviews)
    as_json = msgspec.json.format(msgspec.json.encode(FullReport(answer, tuple(reviews))), indent=2)
    async with run.pool.connection() as connection, connection.transaction():
        markdown_file = await put_file(
            connection, run.tenant_id, "report.md", "text/markdown; charset=utf-8", markdown.encode()
        )
        json_file = await put_file(connection, run.tenant_id, "report.json", "application/json", as_json)
    return str(markdown_file), str(json_file)


async def reviews_of(run: Run, runs: Sequence[str]) -> list[DocumentReview]:
    """The outputs of finished `review.document` runs, by document name."""
    async with run.pool.connection() as connection:
        cursor = await connection.execute(
            "select h.output::text from run_history as h where h.id = any (%s::bigint[]) and h.tenant_id = %s"
            " and h.state = 'succeeded' and h.task = 'review.document' and h.output is not null",
            [[int(run_id) for run_id in runs], run.tenant_id],
        )
        outputs = [msgspec.json.decode(row[0], type=DocumentReview) for row in await cursor.fetchall()]
    return sorted(outputs, key=lambda review: review.name)
