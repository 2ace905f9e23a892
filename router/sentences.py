"""Sentences of a text, as spans: hard-wrapped licences, Markdown, lists, and scripts without spaces."""

import re
from collections.abc import Iterator
from typing import NamedTuple

# A longer "sentence" is a table or a minified line; cutting it keeps every quote short enough to read.
MAX_SENTENCE_CHARACTERS = 2_000

_LINE = re.compile(r"[^\n]*(?:\n|$)")
_ITEM = re.compile(r"[ \t]{0,40}(?:[-*+•o](?=[ \t])|\(?(?:\d{1,3}(?:\.\d{1,3}){0,3}|[a-zA-Z]|[ivxIVX]{2,5})[.)])[ \t]+")
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]|[ \t]*[=\-*_~]{3,}[ \t]*$")
_END = re.compile(r"""[.!?]["'”’)\]*_`]{0,4}(?=\s)|[。！？]""")
_WORD_BEFORE = re.compile(r"[\w.&]+$")
_ABBREVIATIONS_TEXT = (
    "e.g i.e eg ie etc cf vs v no nos inc ltd co corp llc mr mrs ms dr prof st sec sect art fig al ver approx"
)
_ABBREVIATIONS = frozenset(_ABBREVIATIONS_TEXT.split())


class Sentence(NamedTuple):
    """``text[start:end]`` is the sentence, without surrounding space; ``item`` if it opens a list item.

    ``block`` numbers its paragraph or list item, ``indent`` is that block's first column.
    """

    start: int
    end: int
    block: int
    item: bool
    indent: int


def split_sentences(text: str) -> Iterator[Sentence]:
    """Split ``text`` into sentences in order. Linear in its length; nothing but blank space lies between them."""
    for block, (start, end, item) in enumerate(_blocks(text)):
        indent = len(text[start:end]) - len(text[start:end].lstrip())
        for first, last in _ends(text, start, end):
            opens = item and first - start <= indent
            yield Sentence(first, last, block, opens, indent)


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """Paragraphs, list items and headings: (start, end, whether a list item)."""
    start, item = -1, False
    for line in _LINE.finditer(text):
        begin, end = line.span()
        if begin == end:
            break
        content = line.group()
        blank = not content.strip()
        heading = not blank and _HEADING.match(content) is not None
        opens = not blank and not heading and _ITEM.match(content) is not None
        if start >= 0 and (blank or heading or opens):
            yield start, begin, item
            start = -1
        if heading:
            yield begin, end, False
        elif not blank and start < 0:
            start, item = begin, opens
    if start >= 0:
        yield start, len(text), item


def _ends(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    marker = _ITEM.match(text, start, end)
    begin = start
    for match in _END.finditer(text, marker.end() if marker else start, end):
        if _is_end(text, match, end):
            _append(text, begin, match.end(), spans)
            begin = match.end()
    _append(text, begin, end, spans)
    return spans


def _is_end(text: str, match: re.Match[str], end: int) -> bool:
    if match.group()[0] in "。！？!?":
        return True
    following = text[match.end() : min(end, match.end() + 40)].lstrip()[:1]
    if following.islower():
        return False
    before = _WORD_BEFORE.search(text[max(0, match.start() - 12) : match.start()])
    word = before.group().lower() if before else ""
    return word not in _ABBREVIATIONS and not (len(word) == 1 and word.isalpha())


def _append(text: str, begin: int, end: int, spans: list[tuple[int, int]]) -> None:
    while begin < end:
        cut = end
        if end - begin > MAX_SENTENCE_CHARACTERS:
            space = text.rfind(" ", begin + 1, begin + MAX_SENTENCE_CHARACTERS)
            cut = space if space > 0 else begin + MAX_SENTENCE_CHARACTERS
        piece = text[begin:cut]
        if stripped := piece.strip():
            first = begin + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(stripped)))
        begin = cut
