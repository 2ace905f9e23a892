"""How long and how hard a text is."""

import re
from dataclasses import dataclass

from howdah.router.sentences import split_sentences
from howdah.router.tokens import estimate_tokens

# Complexity of a longer text is that of its beginning, middle and end, a third each: a 10 MB text must not cost a
# hundred times what a long licence does.
_SAMPLE_CHARACTERS = 300_000

_WORD = re.compile(r"[^\W\d_]+")
_NESTING = re.compile(r"[,;:()]")
_FENCED = re.compile(r"^[ \t]*(?:```|~~~).*?(?:^[ \t]*(?:```|~~~)|\Z)", re.DOTALL | re.MULTILINE)
_LEGAL_TEXT = (
    "shall hereby herein hereof hereunder thereof therein whereas notwithstanding pursuant licensor licensee grant "
    "granted grants sublicense warranty warranties liability liable indemnify indemnification merchantability "
    "infringement patent patents copyright trademark trademarks derivative redistribution redistributions contributor "
    "contributors provided permitted prohibited terminate terminates termination jurisdiction damages consequential "
    "incidental tort contract obligations obligation consent covenant breach royalty irrevocable perpetual statutory "
    "convey disclaimer disclaimed subject conditions must"
)
_LEGAL = frozenset(_LEGAL_TEXT.split())


@dataclass(frozen=True, slots=True)
class Measure:
    """Estimated ``tokens``, counted ``characters`` and ``sentences``, and ``complexity`` from 0 to 1."""

    tokens: int
    characters: int
    sentences: int
    complexity: float


def measure(text: str, kind: str) -> Measure:
    """Measure ``text``; the same text gives the same figures. Linear in its length.

    ``complexity`` = 0.35·L + 0.15·W + 0.30·T + 0.20·N, each capped at 1:
    L = (words a sentence - 8) / 32; W = share of words of nine letters or more / 0.3;
    T = legal terms in a hundred words / 8; N = commas, semicolons, colons and parentheses a sentence / 8.
    Fenced code of a ``readme`` does not count: it is no prose. Over 300,000 characters complexity comes from three
    samples, and ``sentences`` is scaled up from them.
    """
    sample = _sample(text)
    prose = _FENCED.sub("\n\n", sample) if kind == "readme" else sample
    sentences = sum(1 for _ in split_sentences(prose))
    scaled = round(sentences * len(text) / len(sample)) if sample else 0
    return Measure(estimate_tokens(text), len(text), scaled, _complexity(prose, sentences))


def _complexity(prose: str, sentences: int) -> float:
    words = _WORD.findall(prose)
    if not words or not sentences:
        return 0.0
    length = (len(words) / sentences - 8) / 32
    long_words = sum(1 for n in map(len, words) if n >= 9) / len(words) / 0.3
    legal = sum(1 for w in words if w.lower() in _LEGAL) / len(words) * 100 / 8
    nesting = len(_NESTING.findall(prose)) / sentences / 8
    weighted = 0.35 * _unit(length) + 0.15 * _unit(long_words) + 0.30 * _unit(legal) + 0.20 * _unit(nesting)
    return round(weighted, 3)


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def _sample(text: str) -> str:
    if len(text) <= _SAMPLE_CHARACTERS:
        return text
    part = _SAMPLE_CHARACTERS // 3
    middle = (len(text) - part) // 2
    return "\n\n".join((text[:part], text[middle : middle + part], text[-part:]))
