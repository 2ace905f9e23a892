"""Choosing and calling models. Start at :class:`Router`; what can go wrong is in ``errors.py``.

What speaks the OpenAI protocol is imported from its own modules: `openai` takes half a second to import.
"""

from howdah.router.builtin import BuiltinProvider
from howdah.router.catalogue import Model, catalogue
from howdah.router.embeddings import Embedder, WordLlamaEmbedder
from howdah.router.errors import (
    AllModelsFailedError,
    ContextTooLongError,
    InvalidRequestError,
    MalformedReplyError,
    ModelError,
    ModelTimeoutError,
    ModelTooSmallError,
    NoModelError,
    RateLimitedError,
    RefusedError,
    RouterError,
    UpstreamError,
)
from howdah.router.measure import Measure, measure
from howdah.router.policy import Choice, Need, choose
from howdah.router.request import Completion, Delta, Message, Purpose, Quote, Request
from howdah.router.router import ModelCall, Provider, Recorder, Router
from howdah.router.tokens import estimate_tokens

__all__ = [
    "AllModelsFailedError",
    "BuiltinProvider",
    "Choice",
    "Completion",
    "ContextTooLongError",
    "Delta",
    "Embedder",
    "InvalidRequestError",
    "MalformedReplyError",
    "Measure",
    "Message",
    "Model",
    "ModelCall",
    "ModelError",
    "ModelTimeoutError",
    "ModelTooSmallError",
    "Need",
    "NoModelError",
    "Provider",
    "Purpose",
    "Quote",
    "RateLimitedError",
    "Recorder",
    "RefusedError",
    "Request",
    "Router",
    "RouterError",
    "UpstreamError",
    "WordLlamaEmbedder",
    "catalogue",
    "choose",
    "estimate_tokens",
    "measure",
]
