"""Vectors over the OpenAI protocol."""

import asyncio
import math
from collections.abc import Sequence

import msgspec

from howdah.router.catalogue import Model
from howdah.router.embeddings import refuse_empty
from howdah.router.errors import MalformedReplyError
from howdah.router.openai_client import connect, mapped

# The API takes 2,048 inputs; 256 chunks of a thousand tokens stay under its limit of 300,000 tokens a request.
_EMBED_INPUTS = 256


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float]


class _EmbeddingReply(msgspec.Struct):
    data: list[_Vector]


class OpenAIEmbedder:
    """Vectors over the OpenAI protocol, in batches of at most 256 inputs."""

    def __init__(self, model: Model, api_key: str, base_url: str | None = None, timeout_s: float = 60.0) -> None:
        self.name = model.name
        self.dimensions = model.dimensions
        self._timeout_s = timeout_s
        self._client = connect(api_key, base_url)

    async def aclose(self) -> None:
        """Close the client's connections."""
        await self._client.close()

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector for each of ``texts``, in order. Raises the ModelError that a failure is."""
        refuse_empty(texts)
        vectors: list[list[float]] = []
        for first in range(0, len(texts), _EMBED_INPUTS):
            vectors += await self._batch(list(texts[first : first + _EMBED_INPUTS]))
        return vectors

    async def _batch(self, texts: list[str]) -> list[list[float]]:
        with mapped(self.name, self._timeout_s):
            async with asyncio.timeout(self._timeout_s):
                raw = await self._client.embeddings.with_raw_response.create(
                    model=self.name,
                    input=texts,
                    dimensions=self.dimensions,
                    encoding_format="float",
                    timeout=self._timeout_s,
                )
            data = sorted(msgspec.json.decode(raw.content, type=_EmbeddingReply).data, key=lambda v: v.index)
        if [v.index for v in data] != list(range(len(texts))):
            raise MalformedReplyError(self.name, f"{len(data)} vectors for {len(texts)} texts")
        return [self._unit(v.embedding) for v in data]

    def _unit(self, vector: list[float]) -> list[float]:
        norm = math.sqrt(sum(x * x for x in vector))
        if len(vector) != self.dimensions or not norm or not math.isfinite(norm):
            raise MalformedReplyError(
                self.name,
                f"a vector of {len(vector)} numbers and length {norm:g}, "
                f"where {self.dimensions} numbers were asked for",
            )
        return [x / norm for x in vector]
