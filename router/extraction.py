"""Choosing sentences of a text by counting words or by comparing vectors. It all blocks: call it in a thread."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import numpy as np

from howdah.router.embeddings import embed_now
from howdah.router.sentences import Sentence, split_sentences

# Shorter ones say nothing alone ("See below."); longer ones are no sentence to quote but a page.
_MIN_WORDS, _MAX_CHARACTERS = 5, 700
# A shelf of books has as many; a file of nothing but full stops has millions, and each costs half a kilobyte here.
_MAX_SENTENCES = 100_000
# Embedding a sentence takes some 0.03 ms, comparing it with those chosen as much: 4,000 are a fraction of a second.
_MAX_EMBEDDED = 4_000
_MAX_DIVERSIFIED = 200
# Weight of being central against being unlike what is already chosen.
_CENTRAL = 0.7
_OVERLAP = 0.5

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+")
_MARKUP = re.compile(r"https?://|\]\(|```|~~~|<[a-zA-Z/!]|\|.*\||^\s*(?:[#>|$]|\.\. |>>>|import |from \w+ import)")
# Says who owns or what a word means, not what the text is about.
_FRONT_MATTER = re.compile(r"^\W*copyright \W*(?:c\W|\d)|^.{0,60}\bshall mean\b|^.{0,60}[\"”] means\b", re.IGNORECASE)
_STOPWORDS_TEXT = (
    "a about above after all also an and any are as at be because been before being below between both but by can "
    "could did do does doing down during each either else few for from further had has have having he her here hers "
    "him his how i if in into is it its itself may me might more most my no nor not of off on once only or other our "
    "out over own same she should so some such than that the their them then there these they this those through to "
    "too under until up upon us very was we were what when where which while who whom why will with would you your "
    "shall must within without whether including"
)
_STOPWORDS = frozenset(_STOPWORDS_TEXT.split())


def key_sentences(text: str, count: int, *, deep: bool) -> list[Sentence]:
    """The ``count`` sentences that say most of what ``text`` says, in the text's order.

    Fast: sentences whose words are frequent in the text, early ones a little first, none that repeats another. Deep:
    those nearest to the centre of all sentence vectors, each unlike the ones already chosen (maximal marginal
    relevance). A text of nothing but fragments gives its first ones.
    """
    sentences = list(islice(split_sentences(text), _MAX_SENTENCES))
    texts = [text[s.start : s.end] for s in sentences]
    words = [_content_words(t) for t in texts]
    candidates = [i for i, t in enumerate(texts) if _quotable(t)]
    if not candidates:
        return sentences[:count]
    scores = _frequency_scores(texts, words, candidates)
    ranked = sorted(candidates, key=lambda i: (-scores[i], i))
    chosen = _central(texts, ranked[:_MAX_EMBEDDED], scores, count) if deep else _distinct(ranked, words, count)
    return [sentences[i] for i in sorted(chosen)]


def best_passages(question: str, passages: Sequence[str], count: int, *, deep: bool) -> list[tuple[int, Sentence]]:
    """The ``count`` passages nearest to ``question``, best first, each with its sentence that is nearest.

    By rarity-weighted words in common; deep adds the likeness of vectors. Blank passages are left out.
    """
    found = ((i, s) for i, passage in enumerate(passages) for s in split_sentences(passage))
    split = list(islice(found, _MAX_SENTENCES))
    if not split:
        return []
    texts = [passages[i][s.start : s.end] for i, s in split]
    scores = _word_likeness(question, texts)
    wholes = _word_likeness(question, passages)
    if deep:
        head = sorted(range(len(texts)), key=lambda j: -scores[j])[:_MAX_EMBEDDED]
        vectors = embed_now([question, *passages, *(texts[j] for j in head)])
        likeness = vectors[1:] @ vectors[0]
        wholes = [a + float(b) for a, b in zip(wholes, likeness, strict=False)]
        for j, value in zip(head, likeness[len(passages) :], strict=True):
            scores[j] += float(value)
    best: dict[int, int] = {}
    for j, (i, _) in enumerate(split):
        if i not in best or scores[j] > scores[best[i]]:
            best[i] = j
    order = sorted(best, key=lambda i: (-(wholes[i] + scores[best[i]]), i))
    return [(i, split[best[i]][1]) for i in order[:count]]


def _quotable(sentence: str) -> bool:
    if len(sentence) > _MAX_CHARACTERS or _MARKUP.search(sentence):
        return False
    letters = sum(map(len, _WORD.findall(sentence)))
    return letters >= 0.6 * len(sentence) and sum(1 for _ in _WORD.finditer(sentence)) >= _MIN_WORDS


def _content_words(sentence: str) -> frozenset[str]:
    return frozenset(w for w in map(str.lower, _WORD.findall(sentence)) if w not in _STOPWORDS)


def _frequency_scores(
    texts: Sequence[str], words: Sequence[frozenset[str]], candidates: Sequence[int]
) -> dict[int, float]:
    frequency = Counter(word for sentence in words for word in sentence)
    scores = {}
    for i in candidates:
        # Under eight words the mean is luck: a short sentence must not win by one frequent word.
        mean = sum(math.log(frequency[w]) for w in words[i]) / max(8, len(words[i]))
        scores[i] = mean * (1 + 0.3 / (1 + i / 10)) + 0.3 / (1 + i)
        if _FRONT_MATTER.search(texts[i]):
            scores[i] *= 0.4
    return scores


def _distinct(ranked: Sequence[int], words: Sequence[frozenset[str]], count: int) -> list[int]:
    chosen: list[int] = []
    for i in ranked:
        if len(chosen) == count:
            break
        if all(len(words[i] & words[j]) <= _OVERLAP * max(1, len(words[i] | words[j])) for j in chosen):
            chosen.append(i)
    return chosen


def _central(texts: Sequence[str], ranked: Sequence[int], scores: dict[int, float], count: int) -> list[int]:
    vectors = embed_now([texts[i] for i in ranked])
    centre = vectors.sum(axis=0)
    centre /= max(float(np.linalg.norm(centre)), 1e-9)
    best = max(scores[i] for i in ranked) or 1.0
    relevance = vectors @ centre + np.array([0.2 * scores[i] / best for i in ranked], dtype=np.float32)
    head = np.argsort(-relevance, kind="stable")[: max(_MAX_DIVERSIFIED, count)]
    near = np.zeros(len(head), dtype=np.float32)
    chosen: list[int] = []
    left = np.ones(len(head), dtype=bool)
    while len(chosen) < count and left.any():
        gain = np.where(left, _CENTRAL * relevance[head] - (1 - _CENTRAL) * near, -np.inf)
        pick = int(np.argmax(gain))
        left[pick] = False
        chosen.append(ranked[int(head[pick])])
        likeness = vectors[head] @ vectors[head[pick]]
        # What says the same in other words is not chosen at all.
        left &= likeness < 0.95
        near = np.maximum(near, likeness)
    return chosen


def _word_likeness(question: str, texts: Sequence[str]) -> list[float]:
    wanted = {_stem(w) for w in _content_words(question)}
    found = [{_stem(w) for w in _content_words(text)} & wanted for text in texts]
    spread = Counter(word for words in found for word in words)
    weight = {w: math.log(1 + len(texts) / (1 + spread[w])) for w in wanted}
    total = sum(weight.values()) or 1.0
    return [sum(weight[w] for w in words) / total for words in found]


def _stem(word: str) -> str:
    """Enough that "discloses" meets "disclosed" and "notices" meets "notice"."""
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word
