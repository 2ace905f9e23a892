"""The models without a server: every word they show is in the text."""

import asyncio
import math
import subprocess
import sys

import pytest

from howdah.router import (
    BuiltinProvider,
    InvalidRequestError,
    Message,
    ModelTimeoutError,
    Need,
    Request,
    Router,
    WordLlamaEmbedder,
    catalogue,
)
from tests.router.texts import COPYLEFT, PERMISSIVE, licences, readmes

FAST, DEEP, _ = catalogue(openai_configured=False)
BOTH = pytest.mark.parametrize("model", [FAST, DEEP], ids=["fast", "deep"])


async def asked(model, purpose, **parts):
    return await BuiltinProvider().complete(model, Request(purpose, **parts))


@BOTH
async def test_every_quote_of_every_installed_text_is_verbatim_at_its_place(model):
    texts = licences()[::4] + readmes()[::4]
    assert len(texts) > 20
    for _, text in texts:
        for purpose in ("key_sentences", "obligations"):
            for quote in (await asked(model, purpose, text=text)).items:
                assert text[quote.start : quote.end] == quote.text


@BOTH
async def test_key_sentences_are_labelled_so_and_cost_nothing_known(model):
    reply = await asked(model, "key_sentences", text=PERMISSIVE, max_items=2)
    assert (reply.label, reply.cost, len(reply.items)) == ("key sentences", None, 2)
    assert reply.input_tokens > 0 < reply.output_tokens


@BOTH
async def test_key_sentences_come_in_the_order_of_the_text_and_do_not_repeat(model):
    text = (
        "The river floods every spring and feeds the fields. " * 6
        + "Farmers along the river plant rice in the wet fields. "
        + "In winter the village mends nets and boats for the river."
    )
    items = (await asked(model, "key_sentences", text=text, max_items=3)).items
    assert [q.start for q in items] == sorted(q.start for q in items)
    assert len({q.text for q in items}) == len(items) == 3


async def test_a_text_of_fragments_still_gives_something():
    assert (await asked(DEEP, "key_sentences", text="Yes. No.")).items[0].text == "Yes."


@BOTH
async def test_obligations_are_found_with_their_kinds_and_disclaimers_are_not(model):
    reply = await asked(model, "obligations", text=PERMISSIVE)
    assert reply.label == "obligations quoted"
    assert [q.kind for q in reply.items] == ["notice", "no-endorsement"]
    assert reply.items[0].text.startswith("Copies of the source code must retain")
    assert "LIABLE" not in reply.text


async def test_a_duty_to_disclose_source_is_told_from_the_others():
    reply = await asked(FAST, "obligations", text=COPYLEFT)
    assert [q.kind for q in reply.items] == ["disclose-source", "same-licence", "state-changes", "patent"]
    assert "shall mean" not in reply.text


async def test_list_items_without_a_word_of_duty_count_when_announced_as_conditions():
    text = "You may copy it if you do all of the following:\n\n"
    text += "a) Give notice of use.\n\nb) Include a copy of this licence.\n"
    text += "\nThe end comes now.\n\na) A list of other things.\n"
    reply = await asked(FAST, "obligations", text=text)
    assert [q.text for q in reply.items] == ["Give notice of use.", "Include a copy of this licence."]


async def test_of_too_many_obligations_the_unclassified_go_first():
    text = "You must dance. " * 5 + "You must make the source code available to all. " + "You must sing. " * 5
    reply = await asked(FAST, "obligations", text=text, max_items=2)
    assert [q.kind for q in reply.items] == ["other", "disclose-source"]


@BOTH
async def test_the_passage_that_answers_comes_first_with_its_sentence(model):
    passages = (
        "Tea is grown in the hills.",
        "Bread is old. You must disclose the source code to users.",
        "Ships sail.",
    )
    reply = await asked(model, "answer", question="Which oblige me to disclose source code?", passages=passages)
    first = reply.items[0]
    assert (reply.label, first.source, first.kind) == ("passages found", 1, "passage")
    assert first.text == "You must disclose the source code to users." == passages[1][first.start : first.end]


async def test_the_deep_model_finds_by_meaning_what_shares_no_word():
    passages = ("The committee met on Tuesday in the hall.", "Automobiles need petrol to run on roads.")
    reply = await asked(DEEP, "answer", question="What fuel do cars use?", passages=passages)
    assert reply.items[0].source == 1


async def test_a_chat_finds_passages_in_the_earlier_messages():
    messages = (
        Message("system", "The office is in Lisbon. Lunch is at noon."),
        Message("user", "When is lunch?"),
    )
    reply = await asked(FAST, "chat", messages=messages, max_items=1)
    assert (reply.label, reply.text, reply.items[0].source) == ("passages found", "Lunch is at noon.", 0)


async def test_a_chat_of_one_message_gives_its_key_sentences():
    reply = await asked(FAST, "chat", messages=(Message("user", PERMISSIVE),), max_items=1)
    assert (reply.label, reply.items[0].source) == ("key sentences", 0)


async def test_the_event_loop_goes_on_while_a_large_text_is_read():
    text = "The committee shall meet again to weigh the matter of roads and bridges. " * 20_000
    work = asyncio.ensure_future(asked(FAST, "obligations", text=text))
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100


async def test_work_beyond_the_time_allowed_is_a_timeout():
    with pytest.raises(ModelTimeoutError):
        await asked(FAST, "key_sentences", text="The committee met to weigh the matter. " * 5_000, timeout_s=0.001)


async def test_a_router_without_configuration_answers():
    router = Router()
    choice = router.choose(Need("licence", 300, 0.6, "obligations"))
    reply = await router.complete(Request("obligations", text=PERMISSIVE), choice)
    assert reply.model == "howdah-extract-deep"
    assert len(reply.items) == 2


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"purpose": "key_sentences", "text": " \n"}, "needs a text"),
        ({"purpose": "answer", "question": "Why?"}, "at least one passage"),
        ({"purpose": "answer", "passages": ("x",)}, "needs a question"),
        ({"purpose": "chat", "messages": (Message("system", "x"),)}, "message of a user"),
        ({"purpose": "obligations", "text": "x", "max_items": 0}, "max_items is 0"),
        ({"purpose": "obligations", "text": "x", "max_items": 501}, "max_items is 501"),
        ({"purpose": "obligations", "text": "x", "timeout_s": 601}, "timeout_s is 601"),
        ({"purpose": "obligations", "text": "x" * 10_000_001}, "characters is 1e\\+07"),
        ({"purpose": "answer", "question": "?", "passages": ("x",) * 257}, "passages is 257"),
    ],
)
def test_a_request_out_of_bounds_is_refused_with_the_value(parts, said):
    with pytest.raises(InvalidRequestError, match=said):
        Request(**parts)


async def test_vectors_are_of_unit_length_and_near_for_near_meanings():
    cat, kitten, tax = await WordLlamaEmbedder().embed(["a cat", "a small kitten", "the tax return is due"])
    assert len(cat) == WordLlamaEmbedder.dimensions == 256
    assert math.isclose(sum(x * x for x in cat), 1, rel_tol=1e-4)
    assert sum(a * b for a, b in zip(cat, kitten, strict=True)) > sum(a * b for a, b in zip(cat, tax, strict=True))


async def test_a_vector_does_not_depend_on_its_neighbours():
    alone = await WordLlamaEmbedder().embed(["short"])
    beside = await WordLlamaEmbedder().embed(["short", "long " * 20_000])
    assert beside[0] == alone[0]


async def test_half_a_surrogate_pair_is_embedded_and_a_blank_text_refused_by_its_number():
    assert len(await WordLlamaEmbedder().embed(["broken \ud83d text"])) == 1
    with pytest.raises(InvalidRequestError, match="text 1 of 2"):
        await WordLlamaEmbedder().embed(["fine", " "])


def test_embedding_needs_no_network_and_leaves_the_root_logger_alone():
    program = (
        "import asyncio, logging, socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from howdah.router import WordLlamaEmbedder\n"
        "asyncio.run(WordLlamaEmbedder().embed(['x']))\n"
        "assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
