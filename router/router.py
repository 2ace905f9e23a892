"""Calling the chosen model, and the next one when it fails; every attempt is recorded."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol, cast

from howdah.router.builtin import BuiltinProvider
from howdah.router.catalogue import Model, catalogue
from howdah.router.errors import AllModelsFailedError, ModelError, NoModelError, RefusedError
from howdah.router.policy import Choice, Need, choose
from howdah.router.request import Completion, Delta, Purpose, Request
from howdah.router.tokens import estimate_tokens

Status = Literal["ok", "rate_limited", "timeout", "error", "malformed", "refused"]


class Provider(Protocol):
    """Serves the models of one ``provider`` name; raises a ModelError where an attempt fails."""

    async def complete(self, model: Model, request: Request) -> Completion:
        """Serve ``request`` once."""
        ...

    def stream(self, model: Model, request: Request) -> AsyncIterator[Delta | Completion]:
        """Serve it as deltas, and the completion last."""
        ...


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One attempt. Tokens of a failed one are 0, of an abandoned stream estimated; ``fallback_of`` failed before it."""

    model: str
    purpose: Purpose
    status: Status
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    latency_ms: float
    error: str | None = None
    fallback_of: str | None = None


class Recorder(Protocol):
    """Where attempts are written down."""

    async def record(self, call: ModelCall) -> None:
        """Write ``call`` down. What it raises reaches the caller: a call that cannot be accounted for is not hidden."""
        ...


class _Unrecorded:
    async def record(self, call: ModelCall) -> None:
        pass


class Router:
    """Chooses and calls models. With no arguments: the built-in ones, and nothing recorded."""

    def __init__(
        self,
        models: Sequence[Model] | None = None,
        providers: Mapping[str, Provider] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.models = tuple(catalogue(openai_configured=False) if models is None else models)
        self._providers: Mapping[str, Provider] = {"builtin": BuiltinProvider()} if providers is None else providers
        self._recorder: Recorder = _Unrecorded() if recorder is None else recorder

    def choose(self, need: Need) -> Choice:
        """Choose among this router's models; see :func:`howdah.router.policy.choose`."""
        return choose(need, self.models)

    async def complete(self, request: Request, choice: Choice) -> Completion:
        """The first reply of the chosen model or, where it fails, of its fallbacks in order.

        Raises
        ------
        RefusedError
            A server refused the request itself (4xx): no other model is tried.
        AllModelsFailedError
            Each model failed; it lists their errors and the greatest ``retry_after``.
        """
        errors: list[ModelError] = []
        for model in (choice.model, *choice.fallbacks):
            attempt = _Attempt(model, request, errors[-1].model if errors else None)
            provider = self._provider(model)
            try:
                completion = await provider.complete(model, request)
            except ModelError as error:
                await self._recorder.record(attempt.failed(error))
                if isinstance(error, RefusedError):
                    raise
                errors.append(error)
            except BaseException as error:
                await self._recorder.record(attempt.broken(error, ""))
                raise
            else:
                await self._recorder.record(attempt.succeeded(completion))
                return completion
        raise AllModelsFailedError(errors)

    async def stream(self, request: Request, choice: Choice) -> AsyncIterator[Delta | Completion]:
        """Deltas as they come, then the completion. Close the iterator (``aclose``) when leaving it early.

        Another model is tried only before the first delta: after it, two answers would be mixed, so the ModelError is
        raised. Errors else as in :meth:`complete`.
        """
        errors: list[ModelError] = []
        for model in (choice.model, *choice.fallbacks):
            attempt = _Attempt(model, request, errors[-1].model if errors else None)
            shown: list[str] = []
            completion: Completion | None = None
            source = self._provider(model).stream(model, request)
            try:
                async for part in source:
                    if isinstance(part, Completion):
                        completion = part
                        break
                    shown.append(part.text)
                    yield part
            except ModelError as error:
                await self._recorder.record(attempt.failed(error))
                if shown or isinstance(error, RefusedError):
                    raise
                errors.append(error)
                continue
            except BaseException as error:
                await self._recorder.record(attempt.broken(error, "".join(shown)))
                raise
            finally:
                await _close(source)
            if completion is None:
                raise RuntimeError(f"the provider of {model.name} ended a stream without its completion")
            await self._recorder.record(attempt.succeeded(completion))
            yield completion
            return
        raise AllModelsFailedError(errors)

    def _provider(self, model: Model) -> Provider:
        try:
            return self._providers[model.provider]
        except KeyError:
            known = ", ".join(sorted(self._providers)) or "none"
            raise NoModelError(
                f"{model.name} needs the provider {model.provider!r}, and this router has: {known}; configure it or "
                "disable the model"
            ) from None


class _Attempt:
    def __init__(self, model: Model, request: Request, fallback_of: str | None) -> None:
        self._model, self._request, self._fallback_of = model, request, fallback_of
        self._started = time.perf_counter()

    def succeeded(self, completion: Completion) -> ModelCall:
        return self._call("ok", completion.input_tokens, completion.output_tokens, completion.cost, None)

    def failed(self, error: ModelError) -> ModelCall:
        return self._call(cast(Status, error.status), 0, 0, self._model.cost(0, 0), error.message)

    def broken(self, error: BaseException, shown: str) -> ModelCall:
        """Cancelled, abandoned by its reader, or a mistake of ours; what was shown has to be paid."""
        spent = (sum(map(estimate_tokens, self._request.parts())), estimate_tokens(shown)) if shown else (0, 0)
        said = "abandoned by its reader" if isinstance(error, GeneratorExit) else repr(error)
        return self._call("error", *spent, self._model.cost(*spent), said)

    def _call(
        self, status: Status, tokens_in: int, tokens_out: int, cost: Decimal | None, error: str | None
    ) -> ModelCall:
        latency_ms = (time.perf_counter() - self._started) * 1_000
        return ModelCall(
            self._model.name,
            self._request.purpose,
            status,
            tokens_in,
            tokens_out,
            cost,
            latency_ms,
            error,
            self._fallback_of,
        )


async def _close(source: AsyncIterator[Delta | Completion]) -> None:
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
