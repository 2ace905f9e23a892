"""From a question and the obligations that reviews found, to the licence families and quotes that bear on it."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from howdah.jobs.documents.licences import DISCLOSES_SOURCE
from howdah.jobs.examples.review.types import Citation, DocumentReview, Excerpt, FamilyFinding
from howdah.router import Embedder

# Words of a question, and the kind of obligation they ask for. A question that uses none is matched by meaning alone.
QUESTION_WORDS = {
    "disclose-source": ("source code", "disclose source", "copyleft", "corresponding source", "open source my"),
    "notice": ("notice", "attribution", "credit", "copyright line"),
    "state-changes": ("state changes", "mark changes", "modified files", "say what i changed"),
    "same-licence": ("same licence", "same license", "relicense", "copyleft"),
    "no-endorsement": ("endorse", "promote", "use the name", "trademark"),
    "patent": ("patent",),
}
# Quotes a family: enough to see what it asks, few enough to read.
QUOTES_A_FAMILY = 3
# Below this cosine similarity a sentence merely shares words with the question.
SIMILAR = 0.35


def kinds_asked(question: str) -> tuple[str, ...]:
    """The kinds of obligation that a question names; empty if it names none."""
    lower = question.lower()
    return tuple(kind for kind, phrases in QUESTION_WORDS.items() if any(phrase in lower for phrase in phrases))


def citation(review: DocumentReview, excerpt: Excerpt) -> Citation:
    """Where an excerpt stands: the last chunk that begins at or before it."""
    ordinal = max(bisect_right(review.stored.starts, excerpt.start) - 1, 0)
    return Citation(
        review.stored.document_id, ordinal, review.name, excerpt.start, excerpt.end, excerpt.text, review.reading.family
    )


async def families_that_oblige(
    question: str, reviews: Sequence[DocumentReview], embedder: Embedder
) -> tuple[FamilyFinding, ...]:
    """The licence families with an obligation that bears on the question, each with its best quotes.

    Only licences count: a readme that speaks of source code obliges nobody. Where the question is about disclosing
    source, a family is listed only if it is known to ask for that; a permissive licence's mention of "source form" is
    not an obligation to disclose it.
    """
    kinds = kinds_asked(question)
    found = [
        (review, excerpt)
        for review in reviews
        if review.reading.kind == "licence" and review.reading.family is not None
        for excerpt in review.obligations.items
        if not kinds or excerpt.kind in kinds
    ]
    if "disclose-source" in kinds:
        found = [(r, e) for r, e in found if any(family in DISCLOSES_SOURCE for family in _families(r))]
    if not found:
        return ()
    vectors = np.asarray(await embedder.embed([question, *(excerpt.text for _, excerpt in found)]))
    similarity = vectors[1:] @ vectors[0]
    by_family: dict[str, list[tuple[float, Citation]]] = defaultdict(list)
    documents: dict[str, set[str]] = defaultdict(set)
    for (review, excerpt), score in zip(found, similarity, strict=True):
        if not kinds and score < SIMILAR:
            continue
        asking = [f for f in _families(review) if "disclose-source" not in kinds or f in DISCLOSES_SOURCE]
        # A file with several licences is shown under all of them together: whose sentence it is, nobody has read.
        family = " + ".join(asking)
        by_family[family].append((float(score), citation(review, excerpt)))
        documents[family].add(review.stored.document_id)
    return tuple(
        FamilyFinding(family, len(documents[family]), _best(by_family[family])) for family in sorted(by_family)
    )


def _families(review: DocumentReview) -> tuple[str, ...]:
    return review.reading.families or ((review.reading.family,) if review.reading.family else ())


def _best(scored: list[tuple[float, Citation]]) -> tuple[Citation, ...]:
    best: dict[str, Citation] = {}
    for _, cited in sorted(scored, key=lambda pair: (-pair[0], pair[1].name, pair[1].start)):
        # Many distributions carry the same sentence: one of them is enough.
        best.setdefault(" ".join(cited.quote.split()), cited)
        if len(best) == QUOTES_A_FAMILY:
            break
    return tuple(best.values())
