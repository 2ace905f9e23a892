"""What the steps of a review hand on: each is a checkpoint's content, small, and all that the next one needs."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Text:
    """Step `extract`: the text is kept beside its file; this is what is known of it."""

    title: str
    media_type: str
    characters: int
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Step `classify`: what the document is, how long and how complex (0 to 1)."""

    kind: str
    family: str | None
    families: tuple[str, ...]
    why: str
    tokens: int
    complexity: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """Step `choose`: the model, the reason, and what to fall back to."""

    model: str
    why: str
    fallbacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A verbatim quote: ``text[start:end]`` of the document's text, in characters."""

    text: str
    start: int
    end: int
    kind: str


@dataclass(frozen=True, slots=True)
class Excerpts:
    """Steps `key sentences` and `obligations`: quotes, under the label that tells who made them."""

    label: str
    model: str
    text: str
    items: tuple[Excerpt, ...]
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Stored:
    """Step `store`: where the document is in its collection; `starts` are the chunks' first characters."""

    document_id: str
    chunks: int
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DocumentReview:
    """The output of a `review.document` run. Ids are strings, as in JSON everywhere."""

    name: str
    title: str
    reading: Reading
    chosen: Chosen
    key_sentences: Excerpts
    obligations: Excerpts
    stored: Stored
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a quote stands: document, chunk, and characters within the document's text."""

    document_id: str
    chunk: int
    name: str
    start: int
    end: int
    quote: str
    family: str | None = None


@dataclass(frozen=True, slots=True)
class FamilyFinding:
    """The obligations of one licence family that bear on the question."""

    family: str
    documents: int
    obligations: tuple[Citation, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found to the question."""

    question: str
    kinds: tuple[str, ...]
    families: tuple[FamilyFinding, ...]
    passages: tuple[Citation, ...]
    label: str
    text: str
    model: str
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Report:
    """The output of a `review.report` run: the answer, and the ids of the files it was written to."""

    answer: Answer
    markdown_file: str
    json_file: str
    delivered_status: int | None = None


@dataclass(frozen=True, slots=True)
class FullReport:
    """The content of `report.json`."""

    answer: Answer
    documents: tuple[DocumentReview, ...]
