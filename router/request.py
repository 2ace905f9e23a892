"""What is asked of a model, and what comes back."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from howdah.router.errors import InvalidRequestError

Purpose = Literal["key_sentences", "obligations", "answer", "chat"]

# 10 million characters are a book shelf; beyond it a file is a dump, and an estimate of its tokens costs a second.
MAX_CHARACTERS = 10_000_000
MAX_PASSAGES = 256
MAX_MESSAGES = 1_000
MAX_ITEMS = 500
MAX_OUTPUT_TOKENS = 32_768
MAX_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked to do; refused with :class:`InvalidRequestError` when a part is missing or out of bounds.

    ``key_sentences`` and ``obligations`` read ``text``; ``answer`` reads ``question`` and ``passages`` (best first);
    ``chat`` reads ``messages``. At most ``max_items`` quotes come back. ``timeout_s`` bounds one attempt at one model,
    and for a stream each wait for its next delta.
    """

    purpose: Purpose
    text: str = ""
    question: str = ""
    passages: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    max_output_tokens: int = 1_024
    max_items: int = 8
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if self.purpose in {"key_sentences", "obligations"}:
            _require(bool(self.text.strip()), f"{self.purpose} needs a text that is not blank")
        elif self.purpose == "answer":
            _require(bool(self.question.strip()), "an answer needs a question that is not blank")
            _require(bool(self.passages), "an answer needs at least one passage")
        else:
            _require(any(m.role == "user" for m in self.messages), "a chat needs at least one message of a user")
        _within("passages", len(self.passages), 0, MAX_PASSAGES)
        _within("messages", len(self.messages), 0, MAX_MESSAGES)
        _within("max_items", self.max_items, 1, MAX_ITEMS)
        _within("max_output_tokens", self.max_output_tokens, 1, MAX_OUTPUT_TOKENS)
        _within("timeout_s", self.timeout_s, 0.001, MAX_TIMEOUT_S)
        _within("characters", sum(map(len, self.parts())), 0, MAX_CHARACTERS)

    def parts(self) -> tuple[str, ...]:
        """All texts that a model must read."""
        return (self.text, self.question, *self.passages, *(m.content for m in self.messages))


@dataclass(frozen=True, slots=True)
class Quote:
    """A verbatim piece of what was given: ``source[start:end] == text``, in characters.

    The source is the request's text, or its passage or message number ``source`` (from 0). ``kind`` is
    ``"sentence"``, ``"passage"``, or for an obligation what it asks for: ``"notice"``, ``"disclose-source"``,
    ``"same-licence"``, ``"state-changes"``, ``"no-endorsement"``, ``"no-warranty"``, ``"patent"``, ``"other"``.
    """

    text: str
    start: int
    end: int
    kind: str = "sentence"
    source: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's reply.

    ``label`` is what a person is told the text is. ``cost`` is US dollars, ``None`` where no price applies. A model
    too small for the text was asked ``pieces`` times. ``dropped_quotes`` counts what a model claimed to quote but is
    not in the text: such a quote is never an item.
    """

    text: str
    items: tuple[Quote, ...]
    model: str
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    latency_ms: float
    finish_reason: str
    label: str
    pieces: int = 1
    dropped_quotes: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a streamed reply's text."""

    text: str


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidRequestError(message)


def _within(name: str, value: float, least: float, most: float) -> None:
    _require(least <= value <= most, f"{name} is {value:g}; it must be between {least:g} and {most:g}")
