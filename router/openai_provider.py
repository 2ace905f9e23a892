"""Chat models behind the OpenAI protocol, at any compatible base URL."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, cast

import msgspec
import openai

from howdah.router.catalogue import Model
from howdah.router.errors import MalformedReplyError, ModelTooSmallError
from howdah.router.openai_client import SHOWN_CHARACTERS, connect, mapped
from howdah.router.policy import room
from howdah.router.prompts import LABELS, Reply, messages, read_reply, verified
from howdah.router.request import Completion, Delta, Quote, Request
from howdah.router.tokens import estimate_tokens

# A document of more pieces is dearer than its review is worth; the built-in models read it for nothing.
MAX_PIECES = 32
# A stream that still drips after this is not answering a person.
_STREAM_SECONDS = 600.0


class _ReplyMessage(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _ReplyChoice(msgspec.Struct):
    message: _ReplyMessage
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _ChatReply(msgspec.Struct):
    choices: list[_ReplyChoice]
    usage: _Usage | None = None


class OpenAIProvider:
    """Chat over the OpenAI protocol. One client, whose connections are shared by all calls; close it with ``aclose``.

    It tries once: retries and fallbacks are the router's, which records each attempt.
    """

    def __init__(self, api_key: str, base_url: str | None = None) -> None:
        self._client = connect(api_key, base_url)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    async def complete(self, model: Model, request: Request) -> Completion:
        """Call ``model`` once, or once for each piece of a document beyond its context window, one after another.

        Raises the ModelError that the failure is, ModelTooSmallError beyond 32 pieces. A quote that is not word
        for word in the source is dropped and counted; where none is left of some, the reply is MalformedReplyError.
        """
        started = time.perf_counter()
        pieces = _pieces(model, request)
        passages = _fitting(model, request)
        parts: list[str] = []
        quotes: dict[tuple[int | None, int], Quote] = {}
        claimed = input_tokens = output_tokens = found = 0
        finish_reason = "stop"
        for offset, text in pieces:
            prompt = messages(request, text, passages)
            reply = await self._call(model, request, prompt)
            content = _content(model, reply)
            # A failure in one piece fails the attempt: half a document's obligations would pass for all.
            parsed = _parsed(model, request, content)
            kept = verified(parsed, request, text, offset, passages)
            claimed += len(parsed.quotes)
            found += len(kept)
            for quote in kept:
                quotes.setdefault((quote.source, quote.start), quote)
            parts.append(parsed.text)
            usage = reply.usage or _estimated(prompt, content)
            input_tokens += usage.prompt_tokens
            output_tokens += usage.completion_tokens
            finish_reason = reply.choices[0].finish_reason or finish_reason
        if claimed and not found:
            raise MalformedReplyError(model.name, f"none of its {claimed} quotes is in the text")
        items = _ordered(request, quotes.values())
        text = "\n".join(part for part in parts if part)
        if request.purpose == "obligations":
            text = "\n".join(" ".join(quote.text.split()) for quote in items)
        return Completion(
            text=text,
            items=items,
            model=model.name,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost=model.cost(input_tokens, output_tokens),
            latency_ms=(time.perf_counter() - started) * 1_000,
            finish_reason=finish_reason,
            label=LABELS[request.purpose],
            pieces=len(pieces),
            dropped_quotes=claimed - found,
        )

    async def stream(self, model: Model, request: Request) -> AsyncIterator[Delta | Completion]:
        """A chat as deltas, then the completion with the usage. Other purposes are JSON: they come as one delta.

        A stream that ends without a finish reason is MalformedReplyError: what was shown so far is not the answer.
        """
        if request.purpose != "chat":
            completion = await self.complete(model, request)
            yield Delta(completion.text)
            yield completion
            return
        started = time.perf_counter()
        prompt = messages(request, "", ())
        parts: list[str] = []
        finish_reason: str | None = None
        usage: _Usage | None = None
        chunks = None
        try:
            with mapped(model.name, request.timeout_s):
                async with asyncio.timeout(request.timeout_s):
                    chunks = await self._client.chat.completions.create(
                        model=model.name,
                        messages=cast(Any, prompt),
                        max_tokens=_output_tokens(model, request),
                        timeout=request.timeout_s,
                        stream=True,
                        stream_options={"include_usage": True},
                    )
            while True:
                with mapped(model.name, request.timeout_s):
                    left = started + _STREAM_SECONDS - time.perf_counter()
                    async with asyncio.timeout(min(request.timeout_s, left)):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    text = ""
                    if chunk.choices:
                        text = chunk.choices[0].delta.content or ""
                        finish_reason = chunk.choices[0].finish_reason or finish_reason
                    if chunk.usage is not None:
                        usage = _Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                if text:
                    parts.append(text)
                    yield Delta(text)
        finally:
            if chunks is not None:
                await chunks.close()
        if finish_reason is None:
            raise MalformedReplyError(model.name, f"the stream ended after {len(parts)} deltas with no finish reason")
        whole = "".join(parts)
        usage = usage or _estimated(prompt, whole)
        yield Completion(
            text=whole,
            items=(),
            model=model.name,
            input_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cost=model.cost(usage.prompt_tokens, usage.completion_tokens),
            latency_ms=(time.perf_counter() - started) * 1_000,
            finish_reason=finish_reason,
            label=LABELS["chat"],
        )

    async def _call(self, model: Model, request: Request, prompt: list[dict[str, str]]) -> _ChatReply:
        shape: Any = openai.omit if request.purpose == "chat" else {"type": "json_object"}
        with mapped(model.name, request.timeout_s):
            # The client's own time-out is for each read; a server that drips would outlive it.
            async with asyncio.timeout(request.timeout_s):
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=model.name,
                    messages=cast(Any, prompt),
                    max_tokens=_output_tokens(model, request),
                    response_format=shape,
                    timeout=request.timeout_s,
                )
            return msgspec.json.decode(raw.content, type=_ChatReply)


def _content(model: Model, reply: _ChatReply) -> str:
    if not reply.choices:
        raise MalformedReplyError(model.name, "a reply without choices")
    message = reply.choices[0].message
    content = message.content or message.refusal
    if not content:
        raise MalformedReplyError(model.name, "a reply without content")
    return content


def _parsed(model: Model, request: Request, content: str) -> Reply:
    if request.purpose == "chat":
        return Reply(text=content)
    try:
        return read_reply(content)
    except msgspec.DecodeError as error:
        raise MalformedReplyError(model.name, f"not the JSON asked for: {error}"[:SHOWN_CHARACTERS]) from error


def _output_tokens(model: Model, request: Request) -> int:
    return min(request.max_output_tokens, model.max_output_tokens)


def _estimated(prompt: Sequence[dict[str, str]], content: str) -> _Usage:
    """For servers that send no usage: a cost of nothing would be further from the truth than an estimate."""
    return _Usage(sum(estimate_tokens(m["content"]) for m in prompt), estimate_tokens(content))


def _pieces(model: Model, request: Request) -> list[tuple[int, str]]:
    """(offset, piece) of the request's text, each within the model's window, cut at a paragraph, line or space."""
    text = request.text
    space = room(model, request.max_output_tokens)
    tokens = estimate_tokens(text)
    if tokens <= space:
        return [(0, text)]
    # A tenth below the average, since some pieces are denser than the text is on average.
    size = int(len(text) * space / tokens * 0.9)
    if size < 1 or len(text) / size > MAX_PIECES:
        raise ModelTooSmallError(
            model.name,
            f"{tokens:,} tokens are more than {MAX_PIECES} pieces of {max(0, space):,}; choose a model with a larger "
            "context window or a built-in one",
        )
    pieces: list[tuple[int, str]] = []
    start = 0
    while start < len(text):
        end = _cut(text, start, size)
        if text[start:end].strip():
            pieces.append((start, text[start:end]))
        start = end
    return pieces


def _cut(text: str, start: int, size: int) -> int:
    if start + size >= len(text):
        return len(text)
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, start + size // 2, start + size)
        if at > 0:
            return at + len(mark)
    return start + size


def _fitting(model: Model, request: Request) -> tuple[str, ...]:
    """The first passages, best first, that fit the window together."""
    left = room(model, request.max_output_tokens) - estimate_tokens(request.question)
    kept: list[str] = []
    for passage in request.passages:
        left -= estimate_tokens(passage) + 8
        if left < 0:
            break
        kept.append(passage)
    if request.passages and not kept:
        raise ModelTooSmallError(model.name, "not one passage fits its context window; give shorter passages")
    return tuple(kept)


def _ordered(request: Request, quotes: Iterable[Quote]) -> tuple[Quote, ...]:
    if request.purpose == "answer":
        return tuple(quotes)[: request.max_items]
    return tuple(sorted(quotes, key=lambda quote: quote.start)[: request.max_items])
