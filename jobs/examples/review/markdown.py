"""The report as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from howdah.jobs.examples.review.types import Answer, Citation, DocumentReview

QUOTE_CHARS = 400


def report_markdown(answer: Answer, reviews: Sequence[DocumentReview]) -> str:
    """The whole report as Markdown."""
    return "\n".join([*_question(answer), *_families(answer), *_passages(answer), *_documents(reviews)]) + "\n"


def cost_text(cost: Decimal | None) -> str:
    """US dollars, or a dash where no price applies."""
    return "–" if cost is None else f"${cost:.6f}"


def _question(answer: Answer) -> list[str]:
    lines = ["# Review", "", f"**Question:** {answer.question}", ""]
    if answer.text:
        lines += [f"**{answer.label.capitalize()}** ({answer.model}):", "", answer.text, ""]
    return lines


def _families(answer: Answer) -> list[str]:
    if not answer.families:
        return ["No obligation found in the documents bears on this question.", ""]
    lines = ["## Obligations found, by licence family", ""]
    for finding in answer.families:
        documents = "1 document" if finding.documents == 1 else f"{finding.documents} documents"
        lines += [f"### {finding.family} ({documents})", ""]
        for cited in finding.obligations:
            lines += [f"> {_quoted(cited)}", f"> — {_place(cited)}", ""]
    return lines


def _passages(answer: Answer) -> list[str]:
    lines = ["## Passages found", ""] if answer.passages else []
    for number, cited in enumerate(answer.passages, 1):
        lines += [f"{number}. {_quoted(cited)}  ", f"   — {_place(cited)}"]
    return [*lines, ""]


def _documents(reviews: Sequence[DocumentReview]) -> list[str]:
    lines = ["## Documents", "", "| document | type | tokens | complexity | model | obligations | cost |"]
    lines.append("| --- | --- | ---: | ---: | --- | ---: | ---: |")
    for review in reviews:
        kind = review.reading.family or review.reading.kind
        lines.append(
            f"| {_cell(review.name)} | {kind} | {review.reading.tokens:,} | {review.reading.complexity:.2f} "
            f"| {review.chosen.model} | {len(review.obligations.items)} | {cost_text(review.cost)} |"
        )
    return lines


def _quoted(cited: Citation) -> str:
    text = " ".join(cited.quote.split())
    return text if len(text) <= QUOTE_CHARS else text[: QUOTE_CHARS - 1] + "…"


def _place(cited: Citation) -> str:
    return f"{_cell(cited.name)}, document {cited.document_id}, chunk {cited.chunk}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
