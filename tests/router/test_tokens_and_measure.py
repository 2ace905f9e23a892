"""The estimate of tokens, sentences with their places, and the measure of complexity."""

from itertools import pairwise
from pathlib import Path

import pytest
import wordllama
from hypothesis import given
from hypothesis import strategies as st

from howdah.router import estimate_tokens, measure
from howdah.router.sentences import MAX_SENTENCE_CHARACTERS, split_sentences
from tests.router.texts import PERMISSIVE, licences, readmes


@pytest.fixture(scope="module")
def tokenizer():
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    model.tokenizer.no_padding()
    return model.tokenizer


def off(tokenizer, text: str) -> float:
    return estimate_tokens(text) / len(tokenizer.encode(text, add_special_tokens=False).ids)


def test_prose_and_markdown_are_estimated_within_a_quarter(tokenizer):
    texts = licences() + readmes()
    assert len(texts) > 50
    wrong = {name: off(tokenizer, text) for name, text in texts if not 0.75 <= off(tokenizer, text) <= 1.25}
    assert wrong == {}


@pytest.mark.parametrize(
    "text",
    [
        "本软件按原样提供,不提供任何担保。契約は書面で行うものとする。",
        "이 소프트웨어는 있는 그대로 제공됩니다. 보증은 없습니다.",
        "Настоящий договор заключён в письменной форме и вступает в силу немедленно.",
        Path(__file__).read_text(),
    ],
)
def test_code_and_other_scripts_are_estimated_within_a_factor_of_1_6(tokenizer, text):
    assert 1 / 1.6 <= off(tokenizer, text) <= 1.6


@given(st.text(max_size=300))
def test_no_text_has_more_than_two_tokens_a_character(text):
    assert estimate_tokens(text) <= 2 * len(text)
    assert (estimate_tokens(text) == 0) == (text == "")


@given(st.text(alphabet='ab. \n\t*#1)(!?。"-', max_size=300))
def test_sentences_lose_nothing_but_space(text):
    spans = list(split_sentences(text))
    edges = [0, *(edge for s in spans for edge in (s.start, s.end)), len(text)]
    assert edges == sorted(edges)
    gaps = list(pairwise(edges))[::2]
    assert all(not text[start:end].strip() for start, end in gaps)
    assert all(text[s.start : s.end].strip() == text[s.start : s.end] != "" for s in spans)


def test_sentences_end_at_stops_but_not_at_abbreviations_or_list_numbers():
    text = "1. See e.g. Acme Inc. for more. It is v. 2.5 of J. Doe.\n\n* First item\n* Second item! 世界。終わり。"
    assert [text[s.start : s.end] for s in split_sentences(text)] == [
        "1. See e.g. Acme Inc. for more.",
        "It is v. 2.5 of J. Doe.",
        "* First item",
        "* Second item!",
        "世界。",
        "終わり。",
    ]


def test_no_sentence_is_longer_than_the_bound():
    text = "word " * 5_000
    assert max(s.end - s.start for s in split_sentences(text)) <= MAX_SENTENCE_CHARACTERS


def test_legal_prose_is_more_complex_than_plain_prose():
    plain = measure("The cat sat. The dog ran. It was a fine day. We had tea.", "other")
    legal = measure(PERMISSIVE, "licence")
    assert 0 <= plain.complexity < 0.2 < legal.complexity <= 1
    assert (plain.sentences, plain.characters) == (4, 56)


def test_the_measure_is_the_same_each_time():
    assert measure(PERMISSIVE, "licence") == measure(PERMISSIVE, "licence")


def test_fenced_code_of_a_readme_does_not_make_it_complex():
    code = "```\nfoo(bar(baz(1, 2), 3), infringement, merchantability, liability)\n```\n"
    prose = "This is short. It is plain. "
    assert measure(prose + "\n" + code * 5, "readme").complexity == measure(prose, "readme").complexity
    assert measure(prose + "\n" + code * 5, "other").complexity > measure(prose, "other").complexity


def test_a_long_text_is_sampled_and_its_sentences_scaled():
    text = "This is a sentence of seven words. " * 50_000
    assert measure(text, "other").sentences == pytest.approx(50_000, rel=0.01)


def test_an_empty_text_measures_nothing():
    empty = measure("", "other")
    assert (empty.tokens, empty.characters, empty.sentences, empty.complexity) == (0, 0, 0, 0.0)
