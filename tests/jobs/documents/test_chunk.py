"""Chunks are exact, bounded, and lose nothing."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howdah.jobs.documents.chunk import Chunk, chunk
from howdah.router.tokens import estimate_tokens

PROSE = st.lists(
    st.sampled_from(
        [
            "A word. ",
            "Is it? Yes!",
            "\n\n",
            "\n",
            " ",
            "# Title\n",
            "- item\n",
            "Head\n====\n",
            "長い文。",
            "x" * 90,
            "e.g. so ",
            "\u2028",
            "🐘",
        ]
    ),
    max_size=120,
).map("".join)
TEXTS = st.one_of(PROSE, st.text(max_size=400))


def assert_faithful(text: str, chunks: list[Chunk]) -> None:
    covered = bytearray(len(text))
    for ordinal, part in enumerate(chunks):
        assert part.ordinal == ordinal
        assert text[part.start : part.end] == part.text
        assert part.tokens == estimate_tokens(part.text)
        assert part.text.strip() == part.text != ""
        covered[part.start : part.end] = b"\1" * (part.end - part.start)
    assert all(seen or char.isspace() for seen, char in zip(covered, text, strict=True))
    assert [c.start for c in chunks] == sorted({c.start for c in chunks})
    assert [c.end for c in chunks] == sorted({c.end for c in chunks})


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.integers(4, 60), st.integers(0, 3))
def test_every_character_is_in_a_chunk_and_no_chunk_is_over_the_limit(text: str, limit: int, overlap: int) -> None:
    chunks = chunk(text, limit, overlap)
    assert_faithful(text, chunks)
    assert all(part.tokens <= limit for part in chunks)


def test_a_text_without_blanks_is_cut_to_the_limit() -> None:
    text = "abcdefghij" * 20_000
    chunks = chunk(text, 64)
    assert_faithful(text, chunks)
    assert max(part.tokens for part in chunks) <= 64


def test_without_overlap_no_character_is_in_two_chunks() -> None:
    chunks = chunk("One sentence stands here. " * 200, 40, overlap_sentences=0)
    assert len(chunks) > 5
    assert all(a.end <= b.start for a, b in pairwise(chunks))


def test_a_chunk_begins_with_the_last_sentence_of_the_one_before() -> None:
    text = " ".join(f"Sentence number {n} says a little." for n in range(60))
    chunks = chunk(text, 60, overlap_sentences=1)
    assert len(chunks) > 5
    for before, after in pairwise(chunks):
        assert before.text.endswith(text[after.start : before.end])
        assert text[after.start : before.end].startswith("Sentence number")


def test_a_section_begins_a_chunk_of_its_own_when_the_last_is_half_full() -> None:
    text = "# One\n\n" + "Some words about one. " * 8 + "\n\n# Two\n\n" + "Some words about two. " * 8
    assert [part.text.split("\n")[0] for part in chunk(text, 64)] == ["# One", "# Two"]


def test_a_blank_text_has_no_chunks() -> None:
    assert chunk(" \n\t\u3000") == []


@pytest.mark.parametrize(("limit", "overlap"), [(3, 1), (0, 0), (64, -1)])
def test_limits_without_sense_are_refused(limit: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="must"):
        chunk("text", limit, overlap)
