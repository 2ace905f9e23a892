"""The models there are, as plain data."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Model:
    """One model that can be chosen.

    ``context_window`` and ``max_output_tokens`` are tokens; the window holds prompt and answer together. Prices are
    US dollars for a million tokens, ``None`` where no price applies. ``quality`` ranks chat models, 1 to 10.
    ``dimensions`` is the length of an embedding model's vectors, 0 for chat models.
    """

    name: str
    provider: Literal["builtin", "openai"]
    kind: Literal["chat", "embedding"]
    context_window: int
    max_output_tokens: int
    input_price: Decimal | None
    output_price: Decimal | None
    strengths: frozenset[str]
    quality: int
    enabled: bool = True
    dimensions: int = 0

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """US dollars for so many tokens; ``None`` where no price applies."""
        if self.input_price is None or self.output_price is None:
            return None
        return (self.input_price * input_tokens + self.output_price * output_tokens) / _MILLION


# The window of the fast one holds any request (10 million characters, at most two tokens each); the deep one embeds
# each sentence, some seconds for its half a million tokens.
_BUILTIN = (
    Model(
        name="howdah-extract-fast",
        provider="builtin",
        kind="chat",
        context_window=20_100_000,
        max_output_tokens=32_768,
        input_price=None,
        output_price=None,
        strengths=frozenset({"fast", "extractive"}),
        quality=1,
    ),
    Model(
        name="howdah-extract-deep",
        provider="builtin",
        kind="chat",
        context_window=500_000,
        max_output_tokens=32_768,
        input_price=None,
        output_price=None,
        strengths=frozenset({"deep", "extractive"}),
        quality=2,
    ),
    Model(
        name="howdah-wordllama-256",
        provider="builtin",
        kind="embedding",
        context_window=500_000,
        max_output_tokens=0,
        input_price=None,
        output_price=None,
        strengths=frozenset({"fast"}),
        quality=1,
        dimensions=256,
    ),
)

# Prices as OpenAI published them for its standard tier when this file was last touched. They change: a cost computed
# from them is an estimate, and the bill is right.
_OPENAI = (
    Model(
        name="gpt-4o-mini",
        provider="openai",
        kind="chat",
        context_window=128_000,
        max_output_tokens=16_384,
        input_price=Decimal("0.15"),
        output_price=Decimal("0.60"),
        strengths=frozenset({"fast"}),
        quality=5,
    ),
    Model(
        name="gpt-4.1-mini",
        provider="openai",
        kind="chat",
        context_window=1_047_576,
        max_output_tokens=32_768,
        input_price=Decimal("0.40"),
        output_price=Decimal("1.60"),
        strengths=frozenset({"long"}),
        quality=6,
    ),
    Model(
        name="gpt-4.1",
        provider="openai",
        kind="chat",
        context_window=1_047_576,
        max_output_tokens=32_768,
        input_price=Decimal("2.00"),
        output_price=Decimal("8.00"),
        strengths=frozenset({"deep", "long"}),
        quality=8,
    ),
    Model(
        name="text-embedding-3-small",
        provider="openai",
        kind="embedding",
        context_window=8_191,
        max_output_tokens=0,
        input_price=Decimal("0.02"),
        output_price=Decimal(0),
        strengths=frozenset(),
        quality=5,
        dimensions=256,
    ),
)


def catalogue(openai_configured: bool) -> tuple[Model, ...]:
    """The built-in models, and OpenAI's after them when a key or base URL for that protocol is configured."""
    return _BUILTIN + _OPENAI if openai_configured else _BUILTIN
