"""A small server on loopback that speaks the OpenAI protocol by a script, and keeps what it was asked."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_SECONDS = 10


@dataclass(frozen=True)
class Answer:
    """A chat completion; `usage` is prompt and completion tokens, None for servers that send none."""

    text: str = "An answer."
    usage: tuple[int, int] | None = (11, 7)
    finish_reason: str = "stop"


@dataclass(frozen=True)
class Stream:
    """A chat completion as server-sent events; `cut` ends it after the deltas, `hang` holds it open there."""

    deltas: tuple[str, ...] = ("Hel", "lo.")
    usage: tuple[int, int] | None = (11, 7)
    cut: bool = False
    hang: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Vectors:
    """Embeddings: `of` gives each input's vector; `reverse` sends them in the wrong order, with the right indexes."""

    of: Callable[[str], list[float]]
    reverse: bool = False


@dataclass(frozen=True)
class Raw:
    """Any status, body and headers."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})


@dataclass(frozen=True)
class Hang:
    """No answer until the server ends."""


Behaviour = Answer | Stream | Vectors | Raw | Hang


def rate_limited(retry_after: str | None) -> Raw:
    headers = {"content-type": "application/json"} | ({} if retry_after is None else {"retry-after": retry_after})
    return failure(429, headers=headers)


def failure(status: int, code: str | None = None, headers: Mapping[str, str] | None = None) -> Raw:
    body = {"error": {"message": f"scripted {status}", "type": "scripted", "code": code, "param": None}}
    return Raw(status, json.dumps(body).encode(), headers or {"content-type": "application/json"})


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


class OpenAIServer:
    """Answers each request with the next behaviour of its script; without one, with a plain Answer."""

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.requests: list[Asked] = []
        self.was_asked = threading.Event()
        self._script: list[Behaviour] = []
        self.ended = asyncio.Event()

    def script(self, behaviours: Iterable[Behaviour]) -> None:
        """Answer the next requests by `behaviours`, in their order."""
        self._script = list(behaviours)

    def reset(self) -> None:
        """Forget the script and what was asked, for the next test."""
        self._script.clear()
        self.requests.clear()
        self.was_asked.clear()

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(Asked(request.url.path, dict(request.headers), body))
        self.was_asked.set()
        behaviour = self._script.pop(0) if self._script else Answer()
        match behaviour:
            case Hang():
                await self.ended.wait()
                return Response(status_code=503)
            case Raw(status, content, headers):
                return Response(content, status_code=status, headers=dict(headers))
            case Vectors(of, reverse):
                data = [
                    {"object": "embedding", "index": i, "embedding": of(text)} for i, text in enumerate(body["input"])
                ]
                ordered = data[::-1] if reverse else data
                return JSONResponse({"object": "list", "model": body["model"], "data": ordered, "usage": {}})
            case Stream():
                return StreamingResponse(self._events(behaviour, body["model"]), media_type="text/event-stream")
            case Answer(text, usage, finish_reason):
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": finish_reason}
                return JSONResponse(_completion(body["model"], "chat.completion", [choice], usage))

    async def _events(self, stream: Stream, model: str) -> AsyncIterator[str]:
        for delta in stream.deltas:
            yield _event(_completion(model, "chat.completion.chunk", [_part({"content": delta}, None)], None))
        if stream.error is not None:
            yield _event({"error": {"message": stream.error, "type": "server_error"}})
        if stream.hang:
            await self.ended.wait()
        if stream.cut or stream.hang or stream.error is not None:
            return
        yield _event(_completion(model, "chat.completion.chunk", [_part({}, "stop")], None))
        if stream.usage is not None:
            yield _event(_completion(model, "chat.completion.chunk", [], stream.usage))
        yield "data: [DONE]\n\n"


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """A server on a free port of loopback, gone when the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    scripted = OpenAIServer(listener.getsockname()[1])
    routes = [Route(f"/v1/{path}", scripted.answer, methods=["POST"]) for path in ("chat/completions", "embeddings")]
    config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    loop = asyncio.new_event_loop()
    # The listener queues connections from before the server runs, so nobody needs to wait for it.
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(sockets=[listener]),), daemon=True)
    thread.start()
    try:
        yield scripted
    finally:
        server.should_exit = True
        loop.call_soon_threadsafe(scripted.ended.set)
        thread.join(_SECONDS)
        assert not thread.is_alive(), f"the scripted server did not end within {_SECONDS} s"
        loop.close()


def _completion(model: str, kind: str, choices: list[dict[str, Any]], usage: tuple[int, int] | None) -> dict[str, Any]:
    body: dict[str, Any] = {"id": "c1", "object": kind, "created": 1, "model": model, "choices": choices}
    if usage is not None:
        prompt, completion = usage
        body["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }
    return body


def _part(delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
