"""The OpenAI protocol over real HTTP: what is sent, what is believed, and what each failure becomes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

import pytest

from howdah.router import (
    Completion,
    Delta,
    InvalidRequestError,
    MalformedReplyError,
    Message,
    ModelTimeoutError,
    ModelTooSmallError,
    RateLimitedError,
    RefusedError,
    Request,
    UpstreamError,
    catalogue,
)
from howdah.router.openai_embedder import OpenAIEmbedder
from howdah.router.openai_provider import OpenAIProvider
from tests.openai_server import Answer, Hang, Raw, Stream, Vectors, failure, rate_limited
from tests.router.texts import PERMISSIVE

MODELS = {m.name: m for m in catalogue(openai_configured=True)}
MINI = MODELS["gpt-4o-mini"]
HELLO = Request("chat", messages=(Message("user", "Hello?"),))
DUTIES = Request("obligations", text=PERMISSIVE)


def quoting(*quotes, text="A summary."):
    return Answer(json.dumps({"text": text, "quotes": [q if isinstance(q, dict) else {"text": q} for q in quotes]}))


async def drain(stream, seen):
    async for part in stream:
        seen.append(part)


async def test_a_chat_is_answered_with_its_tokens_and_cost(server, provider):
    server.script([Answer("Hi.", usage=(1_000, 500))])
    reply = await provider.complete(MINI, HELLO)
    assert (reply.text, reply.label, reply.finish_reason) == ("Hi.", "answer", "stop")
    assert (reply.input_tokens, reply.output_tokens, reply.cost) == (1_000, 500, Decimal("0.00045"))


async def test_the_key_model_and_bound_of_output_are_sent(server, provider):
    await provider.complete(MINI, replace(HELLO, max_output_tokens=77))
    asked = server.requests[0]
    assert asked.headers["authorization"] == "Bearer a key"
    assert (asked.body["model"], asked.body["max_tokens"]) == ("gpt-4o-mini", 77)
    assert asked.body["messages"] == [{"role": "user", "content": "Hello?"}]


async def test_tokens_are_estimated_where_the_server_counts_none(server, provider):
    server.script([Answer("A reply of some words.", usage=None)])
    reply = await provider.complete(MINI, HELLO)
    assert reply.input_tokens > 0 < reply.output_tokens


async def test_an_invented_quote_is_dropped_and_counted(server, provider):
    server.script([quoting("You must pay us a fee.", "IN NO EVENT SHALL THE AUTHORS BE LIABLE FOR ANY DAMAGES.")])
    reply = await provider.complete(MINI, DUTIES)
    assert [q.text for q in reply.items] == ["IN NO EVENT SHALL THE AUTHORS BE LIABLE FOR ANY DAMAGES."]
    assert reply.dropped_quotes == 1
    assert "fee" not in reply.text


async def test_a_quote_whose_lines_were_joined_is_shown_as_the_source_has_it(server, provider):
    server.script([quoting("The names of the authors may not be used to endorse products made from these files")])
    quote = (await provider.complete(MINI, DUTIES)).items[0]
    assert "made from\n   these files" in quote.text == PERMISSIVE[quote.start : quote.end]
    assert quote.kind == "no-endorsement"


async def test_a_reply_of_inventions_only_is_malformed(server, provider):
    server.script([quoting("You must pay us a fee.")])
    with pytest.raises(MalformedReplyError, match="none of its 1 quotes"):
        await provider.complete(MINI, DUTIES)


async def test_a_summary_is_labelled_summary_and_json_in_a_fence_is_read(server, provider):
    server.script([Answer('```json\n{"text": "Short.", "quotes": []}\n```')])
    reply = await provider.complete(MINI, Request("key_sentences", text=PERMISSIVE))
    assert (reply.text, reply.label) == ("Short.", "summary")


async def test_an_answer_cites_the_passage_that_holds_the_quote(server, provider):
    request = Request("answer", question="Why?", passages=("One thing.", "Because of rain."))
    server.script([quoting({"passage": 1, "text": "Because of rain."}, text="Rain.")])
    reply = await provider.complete(MINI, request)
    assert (reply.text, reply.items[0].source, reply.items[0].start) == ("Rain.", 1, 0)


async def test_a_quote_ascribed_to_the_wrong_passage_is_dropped(server, provider):
    request = Request("answer", question="Why?", passages=("One thing.", "Because of rain."))
    server.script([quoting({"passage": 0, "text": "Because of rain."}, "One thing.", text="Rain.")])
    reply = await provider.complete(MINI, request)
    assert ([q.source for q in reply.items], reply.dropped_quotes) == ([0], 1)


async def test_a_text_beyond_the_window_is_read_in_pieces_and_quoted_at_its_own_place(server, provider):
    small = replace(MINI, context_window=2_500)
    text = "The harbour is deep and calm in summer. " * 150 + "\n\nYou must anchor at night."
    server.script([quoting()] * 1 + [quoting("You must anchor at night.")] * 20)
    request = Request("obligations", text=text, max_output_tokens=1_024)
    with pytest.raises(MalformedReplyError):
        await provider.complete(small, replace(request, text=text.replace("anchor", "sail")))
    server.requests.clear()
    server.script([quoting()] * 1 + [quoting("You must anchor at night.")] * 20)
    reply = await provider.complete(small, request)
    assert reply.pieces == len(server.requests) > 1
    assert "".join(asked.body["messages"][1]["content"] for asked in server.requests) == text
    assert [text[q.start : q.end] for q in reply.items] == ["You must anchor at night."]
    assert reply.input_tokens == 11 * reply.pieces


async def test_a_text_of_too_many_pieces_is_not_sent(server, provider):
    with pytest.raises(ModelTooSmallError, match="more than 32 pieces"):
        await provider.complete(replace(MINI, context_window=1_500), Request("obligations", text="word " * 20_000))
    assert server.requests == []


async def test_passages_beyond_the_window_are_left_out_from_the_end(server, provider):
    passages = tuple(f"Passage {i} says something of note about trees. " * 10 for i in range(50))
    server.script([quoting()])
    await provider.complete(replace(MINI, context_window=3_000), Request("answer", question="Why?", passages=passages))
    sent = server.requests[0].body["messages"][1]["content"]
    assert passages[0] in sent
    assert passages[-1] not in sent


@pytest.mark.parametrize("retry_after", ["7", "7.0", "date"])
async def test_a_rate_limit_carries_the_floor_that_the_server_named(server, provider, retry_after):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    server.script([rate_limited(date if retry_after == "date" else retry_after)])
    with pytest.raises(RateLimitedError) as caught:
        await provider.complete(MINI, HELLO)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 500 if retry_after == "date" else caught.value.retry_after == 7


@pytest.mark.parametrize("retry_after", [None, "soon", "nan"])
async def test_a_rate_limit_without_a_readable_floor_has_none(server, provider, retry_after):
    server.script([rate_limited(retry_after)])
    with pytest.raises(RateLimitedError) as caught:
        await provider.complete(MINI, HELLO)
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (failure(500), UpstreamError),
        (failure(503), UpstreamError),
        (failure(408), ModelTimeoutError),
        (failure(400), RefusedError),
        (failure(401), RefusedError),
        (failure(404), UpstreamError),
        (failure(400, "context_length_exceeded"), ModelTooSmallError),
        (Raw(body=b"<html>not json</html>", headers={"content-type": "text/html"}), MalformedReplyError),
        (Raw(body=b'{"choices": ['), MalformedReplyError),
        (Raw(body=b'{"choices": []}'), MalformedReplyError),
        (Raw(body=b'{"choices": [{"message": {"content": null}}]}'), MalformedReplyError),
        (Raw(body=b'{"choices": [{"message": {"content": 5}}]}'), MalformedReplyError),
        (Raw(body=b'"\xff\xfe'), MalformedReplyError),
        (Raw(body=b""), MalformedReplyError),
    ],
)
async def test_each_failure_has_its_own_error_and_is_tried_once(server, provider, behaviour, error):
    server.script([behaviour])
    with pytest.raises(error) as caught:
        await provider.complete(MINI, HELLO)
    assert caught.type is error
    assert len(server.requests) == 1


async def test_json_that_was_not_asked_for_is_malformed(server, provider):
    server.script([Answer("Here are your obligations: none."), Answer('{"quotes": "none"}')])
    for _ in range(2):
        with pytest.raises(MalformedReplyError, match="not the JSON asked for"):
            await provider.complete(MINI, DUTIES)


async def test_a_server_that_hangs_is_a_timeout(server, provider):
    server.script([Hang()])
    with pytest.raises(ModelTimeoutError, match=r"no answer within 0\.2 s"):
        await provider.complete(MINI, replace(HELLO, timeout_s=0.2))


async def test_a_server_that_is_not_there_is_an_upstream_error():
    provider = OpenAIProvider("a key", "http://127.0.0.1:9/v1")
    with pytest.raises(UpstreamError, match="cannot be reached"):
        await provider.complete(MINI, HELLO)
    await provider.aclose()


async def test_a_stream_gives_deltas_then_the_completion_with_its_usage(server, provider):
    server.script([Stream(("Hel", "lo."), usage=(20, 10))])
    parts = [part async for part in provider.stream(MINI, HELLO)]
    assert parts[:-1] == [Delta("Hel"), Delta("lo.")]
    last = parts[-1]
    assert isinstance(last, Completion)
    assert (last.text, last.input_tokens, last.output_tokens, last.finish_reason) == ("Hello.", 20, 10, "stop")
    assert server.requests[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (Stream(cut=True), MalformedReplyError),
        (Stream(error="out of memory"), UpstreamError),
        (Stream(hang=True), ModelTimeoutError),
    ],
)
async def test_a_stream_that_breaks_is_an_error_after_what_it_gave(server, provider, behaviour, error):
    server.script([behaviour])
    seen = []
    with pytest.raises(error):
        await drain(provider.stream(MINI, replace(HELLO, timeout_s=0.5)), seen)
    assert seen == [Delta("Hel"), Delta("lo.")]


async def test_broken_json_in_a_stream_is_malformed(server, provider):
    server.script([Raw(body=b"data: {broken\n\n", headers={"content-type": "text/event-stream"})])
    with pytest.raises(MalformedReplyError):
        _ = [part async for part in provider.stream(MINI, HELLO)]


async def test_what_is_json_inside_streams_as_one_delta_of_verified_text(server, provider):
    server.script([quoting("Example Licence", "Invented.")])
    parts = [part async for part in provider.stream(MINI, DUTIES)]
    assert parts[0] == Delta("Example Licence")
    assert isinstance(parts[1], Completion)


async def embedded(server, texts):
    embedder = OpenAIEmbedder(replace(MODELS["text-embedding-3-small"], dimensions=2), "a key", server.base_url)
    try:
        return await embedder.embed(texts)
    finally:
        await embedder.aclose()


def numbered(text):
    return [float(text), 1.0]


async def test_texts_are_embedded_in_batches_in_their_order_at_unit_length(server):
    server.script([Vectors(numbered, reverse=True)] * 3)
    vectors = await embedded(server, [str(i) for i in range(600)])
    assert [len(asked.body["input"]) for asked in server.requests] == [256, 256, 88]
    assert server.requests[0].body["dimensions"] == 2
    assert [round(x / y) for x, y in vectors] == list(range(600))
    assert all(abs(x * x + y * y - 1) < 1e-9 for x, y in vectors)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (Vectors(lambda _: [0.0, 0.0]), MalformedReplyError),
        (Vectors(lambda _: [1.0]), MalformedReplyError),
        (Raw(body=b'{"data": []}'), MalformedReplyError),
        (rate_limited("3"), RateLimitedError),
        (failure(500), UpstreamError),
    ],
)
async def test_vectors_that_cannot_be_compared_are_refused(server, behaviour, error):
    server.script([behaviour])
    with pytest.raises(error):
        await embedded(server, ["1"])


async def test_a_blank_text_is_refused_before_it_is_sent(server):
    with pytest.raises(InvalidRequestError, match="text 0 of 1"):
        await embedded(server, [""])
    assert server.requests == []
