"""Which model is chosen, and what people are told about it."""

from dataclasses import replace
from decimal import Decimal

import pytest

from howdah.router import ContextTooLongError, Need, NoModelError, catalogue, choose
from howdah.router.policy import MAX_FALLBACKS

BUILTIN = catalogue(openai_configured=False)
ALL = catalogue(openai_configured=True)


def chosen(models, **need):
    return choose(
        Need(**{"kind": "other", "tokens": 500, "complexity": 0.1, "purpose": "key_sentences"} | need), models
    )


def test_a_complex_licence_gets_the_deep_model_and_says_why():
    choice = chosen(BUILTIN, kind="licence", tokens=2_410, complexity=0.71)
    assert choice.model.name == "howdah-extract-deep"
    assert choice.why == "licence of 2,410 tokens, complexity 0.71 ≥ 0.40: the deep model"


def test_a_simple_readme_gets_the_fast_model_and_says_why():
    choice = chosen(BUILTIN, kind="readme", tokens=900, complexity=0.2)
    assert choice.model.name == "howdah-extract-fast"
    assert choice.why == "readme of 900 tokens, complexity 0.20 < 0.55: the fast model"


def test_the_same_complexity_is_demanding_in_a_licence_and_not_in_a_readme():
    assert chosen(BUILTIN, kind="licence", complexity=0.5).model.name == "howdah-extract-deep"
    assert chosen(BUILTIN, kind="readme", complexity=0.5).model.name == "howdah-extract-fast"


def test_a_short_text_gets_the_fast_model_however_complex():
    assert chosen(BUILTIN, kind="licence", tokens=60, complexity=0.9).model.name == "howdah-extract-fast"


def test_a_long_simple_text_gets_the_stronger_model():
    assert chosen(BUILTIN, tokens=20_000).model.name == "howdah-extract-deep"


def test_an_answer_gets_the_stronger_model():
    assert chosen(BUILTIN, purpose="answer").model.name == "howdah-extract-deep"


def test_real_models_go_before_built_in_ones_which_are_the_last_fallback():
    hard, easy = chosen(ALL, complexity=0.9), chosen(ALL)
    assert (hard.model.name, easy.model.name) == ("gpt-4.1", "gpt-4o-mini")
    assert [m.name for m in hard.fallbacks] == ["gpt-4.1-mini", "gpt-4o-mini", "howdah-extract-deep"]
    assert [m.name for m in easy.fallbacks] == ["gpt-4.1-mini", "gpt-4.1", "howdah-extract-deep"]


def test_fallbacks_are_bounded_and_still_end_with_a_built_in_model():
    many = (*ALL, *(replace(ALL[4], name=f"more-{i}") for i in range(20)))
    fallbacks = chosen(many, complexity=0.9).fallbacks
    assert len(fallbacks) == MAX_FALLBACKS
    assert fallbacks[-1].provider == "builtin"


def test_a_model_whose_window_is_too_small_is_passed_over():
    choice = chosen(ALL, tokens=127_000, complexity=0.1)
    assert "gpt-4o-mini" not in {choice.model.name, *(m.name for m in choice.fallbacks)}


def test_the_answer_and_the_prompt_need_room_too():
    small = replace(ALL[3], name="small", context_window=2_000)
    with pytest.raises(ContextTooLongError):
        chosen([small], purpose="chat", tokens=1_000, max_output_tokens=700)
    assert chosen([small], purpose="chat", tokens=800, max_output_tokens=700).model is small


def test_what_fits_nowhere_is_read_in_pieces_by_the_largest_and_says_so():
    llms = [m for m in ALL if m.provider == "openai"]
    choice = chosen(llms, tokens=3_000_000)
    assert choice.model.name == "gpt-4.1"
    assert "fits no context window, so it is read in about 3 pieces" in choice.why


def test_a_stronger_model_that_cannot_hold_the_text_is_named():
    choice = chosen(BUILTIN, tokens=600_000, complexity=0.9)
    assert choice.model.name == "howdah-extract-fast"
    assert choice.why.endswith("(howdah-extract-deep cannot hold it)")


def test_a_chat_that_fits_nowhere_is_refused_with_the_numbers():
    with pytest.raises(ContextTooLongError, match=r"chat over 30,000,000 tokens.*20,100,000"):
        chosen(BUILTIN, purpose="chat", tokens=30_000_000)


def test_without_an_enabled_model_the_error_says_what_to_do():
    disabled = [replace(m, enabled=False) for m in BUILTIN]
    with pytest.raises(NoModelError, match="enable howdah-extract-fast, which needs no key"):
        chosen(disabled)


def test_an_embedding_model_is_never_chosen_to_write():
    with pytest.raises(NoModelError):
        chosen([m for m in ALL if m.kind == "embedding"])


def test_only_a_configured_catalogue_has_models_that_cost():
    assert {m.provider for m in BUILTIN} == {"builtin"}
    assert all(m.cost(1_000, 1_000) is None for m in BUILTIN)
    mini = next(m for m in ALL if m.name == "gpt-4o-mini")
    assert mini.cost(1_000_000, 500_000) == Decimal("0.45")
