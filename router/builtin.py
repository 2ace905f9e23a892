"""The models that need no server: they quote, and never write a sentence of their own."""

import asyncio
import time
from collections.abc import AsyncIterator

from howdah.router.catalogue import Model
from howdah.router.errors import ModelTimeoutError
from howdah.router.extraction import best_passages, key_sentences
from howdah.router.obligations import obligations
from howdah.router.request import Completion, Delta, Quote, Request
from howdah.router.tokens import estimate_tokens


class BuiltinProvider:
    """Serves ``howdah-extract-fast`` and ``howdah-extract-deep``.

    Both find obligations by the same rules; for the rest the fast one counts words and the deep one compares sentence
    vectors. Work is done in a thread, so the event loop goes on.
    """

    async def complete(self, model: Model, request: Request) -> Completion:
        """Quote from the request's text, passages or messages. Raises ModelTimeoutError after its ``timeout_s``."""
        try:
            # The thread cannot be stopped, but MAX_CHARACTERS bounds it to some seconds.
            async with asyncio.timeout(request.timeout_s):
                return await asyncio.to_thread(_extract, model, request)
        except TimeoutError as error:
            raise ModelTimeoutError(model.name, f"no answer within {request.timeout_s:g} s") from error

    async def stream(self, model: Model, request: Request) -> AsyncIterator[Delta | Completion]:
        """The same text a line at a time, then the completion."""
        completion = await self.complete(model, request)
        for line in completion.text.splitlines(keepends=True):
            yield Delta(line)
        yield completion


def _extract(model: Model, request: Request) -> Completion:
    started = time.perf_counter()
    deep = "deep" in model.strengths
    label, items = _quotes(request, deep=deep)
    text = "\n".join(" ".join(quote.text.split()) for quote in items)
    return Completion(
        text=text,
        items=items,
        model=model.name,
        input_tokens=sum(map(estimate_tokens, request.parts())),
        output_tokens=estimate_tokens(text),
        cost=None,
        latency_ms=(time.perf_counter() - started) * 1_000,
        finish_reason="stop",
        label=label,
    )


def _quotes(request: Request, *, deep: bool) -> tuple[str, tuple[Quote, ...]]:
    count = request.max_items
    if request.purpose == "obligations":
        return "obligations quoted", tuple(obligations(request.text, count))
    if request.purpose == "key_sentences":
        return "key sentences", _key_quotes(request.text, count, deep=deep)
    if request.purpose == "answer":
        return "passages found", _found(request.question, request.passages, count, deep=deep)
    asked = max(i for i, message in enumerate(request.messages) if message.role == "user")
    question = request.messages[asked].content
    # The question is blanked, not left out, so that a quote's source stays the message's number.
    others = tuple("" if i == asked else message.content for i, message in enumerate(request.messages))
    if any(other.strip() for other in others):
        return "passages found", _found(question, others, count, deep=deep)
    return "key sentences", _key_quotes(question, count, deep=deep, source=asked)


def _key_quotes(text: str, count: int, *, deep: bool, source: int | None = None) -> tuple[Quote, ...]:
    return tuple(
        Quote(text[s.start : s.end], s.start, s.end, "sentence", source) for s in key_sentences(text, count, deep=deep)
    )


def _found(question: str, passages: tuple[str, ...], count: int, *, deep: bool) -> tuple[Quote, ...]:
    return tuple(
        Quote(passages[i][s.start : s.end], s.start, s.end, "passage", i)
        for i, s in best_passages(question, passages, count, deep=deep)
    )
