"""Fallback on failure, and a record of every attempt."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from howdah.router import (
    AllModelsFailedError,
    BuiltinProvider,
    Choice,
    Completion,
    Delta,
    Message,
    ModelCall,
    ModelTimeoutError,
    NoModelError,
    RefusedError,
    Request,
    Router,
    UpstreamError,
    catalogue,
)
from tests.openai_server import Answer, Hang, Raw, Stream, failure, rate_limited

MODELS = {m.name: m for m in catalogue(openai_configured=True)}
BIG, MINI, FAST = MODELS["gpt-4.1"], MODELS["gpt-4o-mini"], MODELS["howdah-extract-fast"]
HELLO = Request("chat", messages=(Message("user", "Hello there, how are you today?"),), timeout_s=5)
TWO = Choice(BIG, "for a test", (MINI,))


class Ledger:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)

    def told(self):
        return [(c.model, c.status, c.fallback_of) for c in self.calls]


async def drain(stream, seen):
    async for part in stream:
        seen.append(part)


@pytest.fixture
def ledger():
    return Ledger()


@pytest.fixture
def router(provider, ledger):
    return Router(tuple(MODELS.values()), {"openai": provider, "builtin": BuiltinProvider()}, ledger)


async def test_a_good_call_is_recorded_with_tokens_and_cost(server, router, ledger):
    server.script([Answer("Hi.", usage=(1_000, 100))])
    reply = await router.complete(HELLO, TWO)
    assert reply.model == "gpt-4.1"
    (call,) = ledger.calls
    assert (call.model, call.purpose, call.status, call.error, call.fallback_of) == (
        "gpt-4.1",
        "chat",
        "ok",
        None,
        None,
    )
    assert (call.input_tokens, call.output_tokens, call.cost) == (1_000, 100, Decimal("0.0028"))


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [
        (rate_limited("2"), "rate_limited"),
        (failure(500), "error"),
        (Raw(body=b"nonsense"), "malformed"),
        (failure(408), "timeout"),
        (failure(400, "context_length_exceeded"), "error"),
    ],
)
async def test_a_failure_falls_back_to_the_next_model_and_both_are_recorded(server, router, ledger, behaviour, status):
    server.script([behaviour, Answer("From the second.")])
    reply = await router.complete(HELLO, TWO)
    assert (reply.text, reply.model) == ("From the second.", "gpt-4o-mini")
    assert ledger.told() == [("gpt-4.1", status, None), ("gpt-4o-mini", "ok", "gpt-4.1")]
    assert [asked.body["model"] for asked in server.requests] == ["gpt-4.1", "gpt-4o-mini"]


async def test_a_model_that_hangs_is_left_for_the_next(server, router, ledger):
    server.script([Hang(), Answer("From the second.")])
    reply = await router.complete(replace(HELLO, timeout_s=0.5), TWO)
    assert reply.model == "gpt-4o-mini"
    assert ledger.calls[0].status == "timeout"


async def test_the_built_in_model_answers_when_every_server_fails(server, router, ledger):
    server.script([failure(500), failure(500)])
    reply = await router.complete(HELLO, Choice(BIG, "", (MINI, FAST)))
    assert (reply.model, reply.label, reply.cost) == ("howdah-extract-fast", "key sentences", None)
    assert [c.fallback_of for c in ledger.calls] == [None, "gpt-4.1", "gpt-4o-mini"]


async def test_a_refused_request_is_raised_at_once_and_recorded(server, router, ledger):
    server.script([failure(400)])
    with pytest.raises(RefusedError):
        await router.complete(HELLO, TWO)
    assert ledger.told() == [("gpt-4.1", "refused", None)]


async def test_when_all_fail_each_error_is_listed_with_the_greatest_floor(server, router, ledger):
    server.script([rate_limited("30"), rate_limited("7")])
    with pytest.raises(
        AllModelsFailedError, match=r"gpt-4\.1: HTTP 429.*gpt-4o-mini: HTTP 429.*retry after 30 s"
    ) as caught:
        await router.complete(HELLO, TWO)
    assert caught.value.retry_after == 30
    assert [e.model for e in caught.value.errors] == ["gpt-4.1", "gpt-4o-mini"]
    assert [c.status for c in ledger.calls] == ["rate_limited", "rate_limited"]


async def test_a_stream_falls_back_before_its_first_delta(server, router, ledger):
    server.script([failure(503), Stream(("From ", "two."))])
    parts = [part async for part in router.stream(HELLO, TWO)]
    assert parts[:-1] == [Delta("From "), Delta("two.")]
    assert isinstance(parts[-1], Completion)
    assert ledger.told() == [("gpt-4.1", "error", None), ("gpt-4o-mini", "ok", "gpt-4.1")]


async def test_a_stream_never_falls_back_after_its_first_delta(server, router, ledger):
    server.script([Stream(("Half",), error="gone"), Stream(("Other",))])
    seen = []
    with pytest.raises(UpstreamError):
        await drain(router.stream(HELLO, TWO), seen)
    assert seen == [Delta("Half")]
    assert ledger.told() == [("gpt-4.1", "error", None)]


async def test_a_stream_that_stalls_after_a_delta_is_recorded_as_a_timeout(server, router, ledger):
    server.script([Stream(("Half",), hang=True)])
    with pytest.raises(ModelTimeoutError):
        _ = [part async for part in router.stream(replace(HELLO, timeout_s=0.5), TWO)]
    assert ledger.told() == [("gpt-4.1", "timeout", None)]


async def test_a_stream_left_by_its_reader_is_recorded_with_what_it_showed(server, router, ledger):
    server.script([Stream(("Hello, ", "never read."), hang=True)])
    stream = router.stream(HELLO, TWO)
    assert await anext(stream) == Delta("Hello, ")
    await stream.aclose()
    (call,) = ledger.calls
    assert (call.status, call.error) == ("error", "abandoned by its reader")
    assert call.input_tokens > 0 < call.output_tokens
    assert call.cost


async def test_a_cancelled_call_is_recorded(server, router, ledger):
    server.script([Hang()])
    work = asyncio.ensure_future(router.complete(HELLO, TWO))
    assert await asyncio.to_thread(server.was_asked.wait, 10)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert ledger.calls[0].error == "CancelledError()"


async def test_a_built_in_stream_gives_the_same_text_as_its_completion(router):
    request = Request("obligations", text="You must sing. You must dance. The sun shines.")
    parts = [part async for part in router.stream(request, Choice(FAST, ""))]
    assert "".join(p.text for p in parts[:-1]) == parts[-1].text == "You must sing.\nYou must dance."


async def test_a_model_without_its_provider_is_refused_by_name():
    with pytest.raises(NoModelError, match=r"gpt-4\.1 needs the provider 'openai'.*this router has: builtin"):
        await Router().complete(HELLO, TWO)
