"""Which model serves a need, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from howdah.router.catalogue import Model
from howdah.router.errors import ContextTooLongError, NoModelError
from howdah.router.request import Purpose

# Room for our own instructions beside the text, measured at under 300 tokens for each purpose.
PROMPT_TOKENS = 400
# From here on a document is work for the stronger model. Legal text is held to less: a missed condition costs more
# there than a slower reading.
COMPLEX = 0.55
COMPLEX_LEGAL = 0.40
LONG_TOKENS = 8_000
LONG_LEGAL_TOKENS = 2_000
# Under this there is too little text for depth to find anything more.
SHORT_TOKENS = 150
# Each fallback may use up a whole time-out, so their number bounds how long a caller waits.
MAX_FALLBACKS = 3

LEGAL_KINDS = frozenset({"licence", "contract", "legal"})


@dataclass(frozen=True, slots=True)
class Need:
    """What a model is needed for: the ``kind`` of document (``"licence"``, ``"readme"``, ``"other"`` …), its estimated
    ``tokens``, its ``complexity`` from 0 to 1, the ``purpose``, and the tokens that the answer may have."""

    kind: str
    tokens: int
    complexity: float
    purpose: Purpose
    max_output_tokens: int = 1_024


@dataclass(frozen=True, slots=True)
class Choice:
    """The model chosen, the reason as a sentence for people, and the models to try after it, in order."""

    model: Model
    why: str
    fallbacks: tuple[Model, ...] = ()


def room(model: Model, max_output_tokens: int) -> int:
    """Tokens of text that fit beside our instructions and the answer."""
    if model.provider == "builtin":
        return model.context_window
    return model.context_window - PROMPT_TOKENS - min(max_output_tokens, model.max_output_tokens)


def choose(need: Need, models: Sequence[Model]) -> Choice:
    """Choose among the enabled chat models.

    What fits in the context window goes before what does not; a text too long for all is given in pieces to the one
    with the largest window. A complex, long or legal one gets the stronger model, a short or simple one the cheapest.
    Built-in models are only chosen where no other fits, and are always the last fallback.

    Raises
    ------
    NoModelError
        No chat model is enabled.
    ContextTooLongError
        An answer or chat too long for every model: only a document can be read in pieces.
    """
    enabled = [m for m in models if m.kind == "chat" and m.enabled]
    if not enabled:
        known = ", ".join(m.name for m in models if m.kind == "chat") or "none"
        raise NoModelError(
            f"no chat model is enabled (known: {known}): enable howdah-extract-fast, which needs no key, "
            "or configure an OpenAI-compatible server and enable one of its models"
        )
    subject = f"{need.kind} of {need.tokens:,} tokens"
    fitting = [m for m in enabled if need.tokens <= room(m, need.max_output_tokens)]
    if not fitting:
        return _in_pieces(need, subject, enabled)
    demanding, reason = _demand(need)
    pool = [m for m in fitting if m.provider != "builtin"] or fitting
    order = sorted(pool, key=_strongest_first if demanding else _cheapest_first)
    model = order[0]
    why = f"{subject}, {reason}: {_described(model)}"
    stronger = ", ".join(m.name for m in enabled if m not in fitting and m.quality > model.quality)
    if stronger:
        why += f" ({stronger} cannot hold it)"
    return Choice(model, why, _fallbacks(order[1:], [m for m in fitting if m not in pool]))


def _demand(need: Need) -> tuple[bool, str]:
    legal = need.kind in LEGAL_KINDS
    complex_from = COMPLEX_LEGAL if legal else COMPLEX
    long_from = LONG_LEGAL_TOKENS if legal else LONG_TOKENS
    if need.purpose == "answer":
        return True, "an answer is found by meaning"
    if need.tokens < SHORT_TOKENS:
        return False, f"shorter than {SHORT_TOKENS}"
    if need.complexity >= complex_from:
        return True, f"complexity {need.complexity:.2f} ≥ {complex_from:.2f}"
    if need.tokens >= long_from:
        return True, f"complexity {need.complexity:.2f}, at least {long_from:,} long"
    return False, f"complexity {need.complexity:.2f} < {complex_from:.2f}"


def _in_pieces(need: Need, subject: str, enabled: Sequence[Model]) -> Choice:
    order = sorted(enabled, key=lambda m: (-room(m, need.max_output_tokens), *_strongest_first(m)))
    model = order[0]
    space = room(model, need.max_output_tokens)
    if need.purpose not in {"key_sentences", "obligations"} or space <= 0:
        raise ContextTooLongError(
            f"{need.purpose} over {need.tokens:,} tokens fits no enabled model: the largest, {model.name}, has room "
            f"for {max(0, space):,}; give it less text or enable a model with a larger context window"
        )
    pieces = -(-need.tokens // space)
    why = f"{subject} fits no context window, so it is read in about {pieces} pieces: {_described(model)}"
    return Choice(model, why, tuple(m for m in order[1:] if room(m, need.max_output_tokens) > 0)[:MAX_FALLBACKS])


def _fallbacks(others: Sequence[Model], builtin: Sequence[Model]) -> tuple[Model, ...]:
    last = sorted(builtin, key=_strongest_first)[:1]
    return (*others[: MAX_FALLBACKS - len(last)], *last)


def _strongest_first(model: Model) -> tuple[int, str]:
    return -model.quality, model.name


def _cheapest_first(model: Model) -> tuple[float, int, str]:
    price = float((model.input_price or 0) + (model.output_price or 0))
    return price, model.quality, model.name


def _described(model: Model) -> str:
    role = "deep" if "deep" in model.strengths else "fast" if "fast" in model.strengths else ""
    if model.provider == "builtin" and role:
        return f"the {role} model"
    return f"the {role} model {model.name}" if role else model.name
