"""Models for workflows: the router with the engine as its memory, so that every call is in the tables with its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from howdah.jobs.workflow.run import Run
from howdah.router import (
    BuiltinProvider,
    Embedder,
    Model,
    ModelCall,
    Provider,
    Router,
    WordLlamaEmbedder,
    catalogue,
)
from howdah.sql.models.calls import ModelCallRecord, ModelEntry, record_model_call, register_models
from howdah.sql.pool import Connection


@dataclass(frozen=True, slots=True)
class Models:
    """What a worker was composed with: the models to choose from, who serves them, and the embedder."""

    catalogue: tuple[Model, ...]
    providers: Mapping[str, Provider]
    embedder: Embedder

    def router(self, run: Run) -> Router:
        """A router whose calls are recorded under this run and the step that makes them."""
        return Router(self.catalogue, self.providers, _RunRecorder(run))


@dataclass(frozen=True, slots=True)
class _RunRecorder:
    run: Run

    async def record(self, call: ModelCall) -> None:
        record = ModelCallRecord(
            self.run.tenant_id,
            self.run.id,
            self.run.current_step,
            call.model,
            call.purpose,
            call.status,
            call.input_tokens,
            call.output_tokens,
            call.cost,
            call.latency_ms,
            call.error,
        )
        async with self.run.pool.connection() as connection:
            await record_model_call(connection, record)


def compose_models(openai_api_key: str | None = None, openai_base_url: str | None = None) -> Models:
    """The built-in models, and those behind the OpenAI protocol when there is a key."""
    providers: dict[str, Provider] = {"builtin": BuiltinProvider()}
    if openai_api_key:
        from howdah.router.openai_provider import OpenAIProvider

        providers["openai"] = OpenAIProvider(openai_api_key, openai_base_url)
    return Models(catalogue(openai_configured=bool(openai_api_key)), providers, WordLlamaEmbedder())


async def publish_catalogue(connection: Connection, models: Models) -> Models:
    """Write the catalogue to the database, and return the models as the operator wants them: some may be disabled."""
    entries = [
        ModelEntry(
            model.name,
            model.kind,
            model.provider,
            model.context_window,
            model.max_output_tokens,
            model.input_price,
            model.output_price,
            tuple(sorted(model.strengths)),
            model.quality,
        )
        for model in models.catalogue
    ]
    await register_models(connection, entries)
    cursor = await connection.execute("select name from model where not enabled")
    disabled = {row[0] for row in await cursor.fetchall()}
    return replace(models, catalogue=tuple(replace(m, enabled=m.name not in disabled) for m in models.catalogue))
