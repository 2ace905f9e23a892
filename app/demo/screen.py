"""What a person sees in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from howdah.app.client import StreamedEvent
from howdah.app.demo.verdicts import Joined, Promise
from howdah.jobs.documents.licences import agrees
from howdah.jobs.examples.review.document import PROGRESS
from howdah.jobs.examples.review.markdown import cost_text
from howdah.jobs.examples.review.types import Citation, DocumentReview, Report

NAME_CHARS = 60
NUMBERS = {"tokens", "quotes", "cost", "seconds"}
QUOTE_CHARS = 220
PASSAGES_SHOWN = 3


class Bars:
    """A bar for each step, and one for the documents."""

    def __init__(self, progress: Progress, documents: int) -> None:
        self._progress = progress
        self._steps: dict[str, TaskID] = {name: progress.add_task(name, total=documents) for name in PROGRESS}
        self._documents = progress.add_task("documents", total=documents)

    def step(self, name: str) -> None:
        self._progress.advance(self._steps[name])

    def ended(self, succeeded: bool) -> None:
        self._progress.advance(self._documents)
        if not succeeded:
            for task in self._steps.values():
                found = next(t for t in self._progress.tasks if t.id == task)
                self._progress.update(task, total=(found.total or 1) - 1)

    def say(self, text: str) -> None:
        self._progress.console.print(Text(f"⚡ {text}", style="bold red"))


@contextmanager
def bars(console: Console, documents: int) -> Iterator[Bars]:
    """Progress bars, fed by the session's events."""
    columns = (TextColumn("{task.description:>14}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield Bars(progress, documents)


def documents(console: Console, reviews: Sequence[DocumentReview], seconds: Mapping[str, float]) -> None:
    """The table of documents."""
    table = Table(title=f"{len(reviews)} documents reviewed", title_justify="left", show_edge=False, pad_edge=False)
    models = [review.chosen.model.removeprefix("howdah-extract-") for review in reviews]
    # On a narrow terminal names and reasons give way; numbers keep their width.
    costs = [cost_text(review.cost) for review in reviews]
    fixed = {"type": 12, "tokens": 6, "quotes": 6, "seconds": 7}
    fixed |= {"model": max(map(len, ["model", *models])), "cost": max(map(len, ["cost", *costs]))}
    left = console.width - sum(fixed.values()) - 3 * (len(fixed) + 1)
    because = min(max(left - 14, 8), 24)
    widths = {**fixed, "document": min(max(left - because, 12), NAME_CHARS), "because": because}
    for name in ("document", "type", "tokens", "model", "because", "quotes", "cost", "seconds"):
        justify: JustifyMethod = "right" if name in NUMBERS else "left"
        table.add_column(name, width=widths[name], no_wrap=True, justify=justify)
    for review, model, cost in zip(reviews, models, costs, strict=True):
        table.add_row(
            _left_cut(review.name, widths["document"]),
            review.reading.family or review.reading.kind,
            f"{review.reading.tokens:,}",
            model,
            _reason(review.chosen.why),
            f"{len(review.key_sentences.items)} + {len(review.obligations.items)}",
            cost,
            f"{seconds.get(review.name, 0):.2f}",
        )
    console.print(table)
    labels = {review.key_sentences.label for review in reviews} | {review.obligations.label for review in reviews}
    console.print(f"quotes: {' + '.join(sorted(labels))}\n", style="dim")


def refusals(console: Console, refused: Mapping[str, str]) -> None:
    """Each document that could not be reviewed, with the reason."""
    for name, reason in sorted(refused.items()):
        console.print(Text(f"✗ {name}: {reason}", style="yellow"))
    if refused:
        console.print()


def agreement(console: Console, reviews: Sequence[DocumentReview], declared: Mapping[str, str]) -> str:
    """Compare the licences found with those declared, print every disagreement; the summary as a phrase."""
    counts = dict.fromkeys(("agree", "disagree", "ambiguous", "undeclared"), 0)
    lines = []
    for review in reviews:
        if review.reading.kind != "licence" or not declared.get(review.name):
            continue
        families = review.reading.families or ((review.reading.family,) if review.reading.family else ())
        verdict = agrees(families, declared[review.name])
        counts[verdict.verdict] += 1
        if verdict.verdict != "agree":
            lines.append(f"  {verdict.verdict:>10}  {review.name}: {verdict.detail}")
    total = sum(counts.values())
    if not total:
        return ""
    summary = f"{counts['agree']} of {total} licence texts agree with the SPDX licence that their distribution declares"
    console.print(Text(summary, style="bold"))
    for line in lines:
        console.print(Text(line, style="yellow"))
    console.print()
    return summary


def answer(console: Console, report: Report) -> None:
    """The question, the obligations found by family, and the passages, each with its place."""
    found = report.answer
    console.print(Text(f"❓ {found.question}", style="bold cyan"))
    if found.text:
        console.print(f"[bold]{found.label}[/] ({found.model})")
        console.print(Text(found.text))
    if not found.families:
        console.print("no obligation found bears on this question")
    for finding in found.families:
        documents_word = "document" if finding.documents == 1 else "documents"
        console.print(f"\n[bold]{finding.family}[/] ({finding.documents} {documents_word})")
        for cited in finding.obligations[:2]:
            _cite(console, cited)
    if found.passages:
        console.print(f"\n[bold]{found.label}[/]")
        for cited in found.passages[:PASSAGES_SHOWN]:
            _cite(console, cited)
    console.print()


def joined(console: Console, shown: Joined) -> None:
    """One statement over run, step, event and chunk, and its result."""
    console.print(Text("one statement over run, step, event and chunk:", style="bold"))
    console.print(Text(shown.sql, style="green"))
    table = Table(show_edge=False, pad_edge=False)
    for column in shown.columns:
        table.add_column(column, no_wrap=True, min_width=min(len(column), 5))
    for row in shown.rows:
        table.add_row(*(" ".join(str(value).split()) for value in row))
    console.print(table)
    console.print()


def promises(console: Console, kept: Sequence[Promise]) -> None:
    """What the tables say."""
    for promise in kept:
        console.print(
            Text(f"{'✓' if promise.kept else '✗'} {promise.text}", style="green" if promise.kept else "bold red")
        )


def last_line(
    console: Console,
    reviews: Sequence[DocumentReview],
    refused: Mapping[str, str],
    events: Sequence[StreamedEvent],
    agreed: str,
    files: Mapping[str, Path],
    seconds: float,
) -> None:
    """Counts and seconds."""
    chunks = sum(review.stored.chunks for review in reviews)
    obligations = sum(len(review.obligations.items) for review in reviews)
    parts = [
        f"{len(reviews)} documents",
        f"{len(refused)} refused",
        f"{obligations:,} obligations",
        f"{chunks:,} chunks",
        f"{len(events):,} events",
        "report in " + " and ".join(str(path) for path in files.values()),
        f"{seconds:.1f} s",
    ]
    if agreed:
        parts.insert(2, " of ".join(agreed.split(" of ")[:2]).split(" licence")[0] + " licences as declared")
    console.print(Text(" · ".join(parts), style="bold"))


def _cite(console: Console, cited: Citation) -> None:
    quote = " ".join(cited.quote.split())
    quote = quote if len(quote) <= QUOTE_CHARS else quote[: QUOTE_CHARS - 1] + "…"
    console.print(Text(f"  “{quote}”"))
    console.print(Text(f"   — {cited.name} [document {cited.document_id}, chunk {cited.chunk}]", style="dim"))


def _reason(why: str) -> str:
    """The part of a reason that the table does not say already."""
    return (why.partition(" tokens, ")[2] or why).rpartition(": the ")[0] or why


def _left_cut(text: str, width: int) -> str:
    return text if len(text) <= width else "…" + text[-(width - 1) :]
