"""Texts as vectors of unit length."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from howdah.router.errors import InvalidRequestError

Vectors = npt.NDArray[np.float32]

# A longer text is embedded in pieces whose tokens are pooled together: the same vector, but bounded memory.
_PIECE_CHARACTERS = 8_192
_BATCH_PIECES = 256
_loading = threading.Lock()


class Embedder(Protocol):
    """Turns texts into vectors that can be compared by their dot product."""

    @property
    def name(self) -> str:
        """The model's name, to be stored beside its vectors: those of two models cannot be compared."""
        ...

    @property
    def dimensions(self) -> int:
        """The length of each vector."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector for each of ``texts``, in order; an empty text is refused with InvalidRequestError."""
        ...


class WordLlamaEmbedder:
    """The built-in embedder: wordllama's pooled token vectors, from the weights inside its wheel."""

    name = "howdah-wordllama-256"
    dimensions = 256

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector for each of ``texts``; the first call loads the weights (16 MB). Runs in a thread."""
        refuse_empty(texts)
        return await asyncio.to_thread(lambda: embed_now(texts).tolist())


def refuse_empty(texts: Sequence[str]) -> None:
    """Raise InvalidRequestError naming the first empty text: it has no direction, so no unit vector."""
    for index, text in enumerate(texts):
        if not text.strip():
            raise InvalidRequestError(f"text {index} of {len(texts)} to embed is blank; leave it out")


def embed_now(texts: Sequence[str]) -> Vectors:
    """Vectors of shape (texts, 256), unit length, a zero row for a text without tokens. Blocks: call it in a thread."""
    table, tokenizer = _weights()
    sums = np.zeros((len(texts), table.shape[1]), dtype=np.float32)
    # A PDF may give halves of surrogate pairs, which the tokenizer cannot read.
    pieces = [
        (row, text[at : at + _PIECE_CHARACTERS].encode("utf-8", "replace").decode())
        for row, text in enumerate(texts)
        for at in range(0, len(text), _PIECE_CHARACTERS)
    ]
    for first in range(0, len(pieces), _BATCH_PIECES):
        batch = pieces[first : first + _BATCH_PIECES]
        encodings = tokenizer.encode_batch_fast([piece for _, piece in batch], add_special_tokens=False)
        for (row, _), encoding in zip(batch, encodings, strict=True):
            if encoding.ids:
                sums[row] += table[encoding.ids].sum(axis=0)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    vectors: Vectors = sums / np.maximum(norms, np.finfo(np.float32).tiny)
    return vectors


def _weights() -> tuple[Vectors, Any]:
    with _loading:
        return _load()


@cache
def _load() -> tuple[Vectors, Any]:
    # Importing wordllama configures the root logger of the process; logging is the application's own affair.
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    import wordllama

    root.handlers[:] = handlers
    root.setLevel(level)
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    # Its own embed() pads a batch to the longest text: one long text among short ones would take gigabytes.
    model.tokenizer.no_padding()
    return model.embedding, model.tokenizer
