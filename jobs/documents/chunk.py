"""Cut a text into chunks of bounded size, at the borders that a reader would choose, with exact offsets."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from howdah.router.tokens import estimate_tokens

# A piece of fewer tokens than this could be less than a word; an embedding of it means nothing.
MIN_TOKENS = 4

# Each match is a border; a piece ends before it or with its closing mark. Possessive, so that no input backtracks.
_BORDER = re.compile(
    r"(?P<paragraph>\n[^\S\n]*+\n\s*+)"
    r"|(?P<item>\n(?=[ \t]{0,12}(?:[-*+•]|\d{1,3}[.)]|\([a-z0-9]{1,3}\))[ \t]))"
    r"|(?P<heading>\n(?=\#{1,6}[ ]))"
    r"|(?P<sentence>[.!?][\"'”’)\]]{0,4}\s++(?![a-z])|[。！？])"
)
_HEADING = re.compile(r"\#{1,6} |[^\n]{1,120}\n([=\-~^*\#])\1{2,119}[^\S\n]{0,4}(?:\n|$)")

_SENTENCE, _PARAGRAPH, _SECTION = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a text: `text[start:end]`, `start` and `end` in characters, `tokens` estimated, `ordinal` from 0."""

    ordinal: int
    start: int
    end: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, or part of one too long for a chunk. `tokens` counts it, `joined` also the blanks before it."""

    start: int
    end: int
    rank: int
    tokens: int
    joined: int


def chunk(text: str, max_tokens: int = 256, overlap_sentences: int = 1) -> list[Chunk]:
    """Split `text` into chunks of at most `max_tokens` (estimated), in order.

    Every character that is not blank is in at least one chunk. A chunk ends before a section, else a paragraph, else a
    sentence, where one begins in its second half. It begins with the last `overlap_sentences` of the one before it, if
    they are in its section and take at most a quarter of it. Linear in the length of the text. Raises ValueError for
    a `max_tokens` under 4 and a negative overlap.
    """
    if max_tokens < MIN_TOKENS:
        raise ValueError(f"max_tokens is {max_tokens}; it must be at least {MIN_TOKENS}")
    if overlap_sentences < 0:
        raise ValueError(f"overlap_sentences is {overlap_sentences}; it must not be negative")
    pieces = list(_pieces(text, max_tokens))
    chunks: list[Chunk] = []
    first, fresh = 0, 0  # the chunk's first piece, and the first that no chunk has yet
    while fresh < len(pieces):
        stop = _stop(pieces, first, fresh, max_tokens)
        body = text[pieces[first].start : pieces[stop - 1].end]
        tokens = estimate_tokens(body)
        while tokens > max_tokens and stop - 1 > fresh:
            # The estimate of a whole can exceed the sum of its parts by rounding, so by a piece or two at most.
            stop -= 1
            body = text[pieces[first].start : pieces[stop - 1].end]
            tokens = estimate_tokens(body)
        if tokens > max_tokens and first < fresh:
            first = fresh
            continue
        chunks.append(Chunk(len(chunks), pieces[first].start, pieces[stop - 1].end, body, tokens))
        first, fresh = _overlap(pieces, first, stop, max_tokens, overlap_sentences), stop
    return chunks


def _stop(pieces: list[_Piece], first: int, fresh: int, max_tokens: int) -> int:
    """Where the chunk that begins with piece `first` ends: the index after its last piece, greater than `fresh`."""
    total = pieces[first].tokens
    best, best_rank = 0, -1
    index = first + 1
    while index < len(pieces):
        piece = pieces[index]
        if index > fresh and total * 2 >= max_tokens and piece.rank >= best_rank:
            best, best_rank = index, piece.rank
        if total + piece.joined > max_tokens and index > fresh:
            return best or index
        total += piece.joined
        index += 1
    return index


def _overlap(pieces: list[_Piece], first: int, stop: int, max_tokens: int, sentences: int) -> int:
    """The first piece of the chunk whose first new piece is `stop`."""
    if stop == len(pieces):
        return stop
    start, total = stop, 0
    room = min(max_tokens // 4, max_tokens - pieces[stop].joined)
    while stop - start < sentences and start - 1 > first and pieces[start].rank < _SECTION:
        total += pieces[start - 1].joined
        if total > room:
            break
        start -= 1
    return start


def _pieces(text: str, max_tokens: int) -> Iterator[_Piece]:
    before = 0  # where the previous piece ended
    for start, end, rank in _spans(text):
        tokens = estimate_tokens(text[start:end])
        if tokens <= max_tokens:
            yield _Piece(start, end, rank, tokens, estimate_tokens(text[before:end]))
            before = end
            continue
        for part_start, part_end in _parts(text, start, end, tokens, max_tokens):
            part_tokens = estimate_tokens(text[part_start:part_end])
            joined = estimate_tokens(text[before:part_end])
            yield _Piece(part_start, part_end, rank if part_start == start else _SENTENCE, part_tokens, joined)
            before = part_end


def _spans(text: str) -> Iterator[tuple[int, int, int]]:
    """Start, end and rank of each sentence, without blanks at its ends; the rank is of the border before it."""
    at, rank = 0, _SECTION
    for border in _BORDER.finditer(text):
        is_sentence = border.lastgroup == "sentence"
        span = _trimmed(text, at, border.end() if is_sentence else border.start())
        if span is not None:
            yield *span, _SECTION if rank and _HEADING.match(text, span[0]) else rank
            rank = _SENTENCE
        # A sentence's mark may be followed by the blank line that ends its paragraph.
        ends_paragraph = border.lastgroup == "paragraph" or (is_sentence and border[0].count("\n") > 1)
        if ends_paragraph or border.lastgroup == "heading":
            rank = _PARAGRAPH
        at = border.end()
    span = _trimmed(text, at, len(text))
    if span is not None:
        yield *span, _SECTION if rank and _HEADING.match(text, span[0]) else rank


def _trimmed(text: str, start: int, end: int) -> tuple[int, int] | None:
    piece = text[start:end]
    bare = piece.lstrip()
    if not bare:
        return None
    return end - len(bare), start + len(piece.rstrip())


def _parts(text: str, start: int, end: int, tokens: int, max_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut a sentence longer than a chunk at blanks in the second half of each window, or anywhere if there are none."""
    width = max(1, (end - start) * max_tokens // tokens)
    while start < end:
        stop = min(start + width, end)
        while stop - start > 1 and estimate_tokens(text[start:stop]) > max_tokens:
            stop = start + (stop - start) // 2
        if stop < end:
            half = start + (stop - start) // 2
            stop = max(text.rfind(blank, half, stop) for blank in "\n ") + 1 or stop
        span = _trimmed(text, start, stop)
        if span is not None:
            yield span
        start = stop
