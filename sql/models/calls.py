"""Typed callers of the models' functions; what each does is told in the SQL file of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from howdah.sql.pool import Connection


@dataclass(frozen=True, slots=True)
class ModelCallRecord:
    """One attempt at a model, good or failed. `cost` is in USD, None where the model has no price."""

    tenant_id: str
    run_id: int | None
    step: str | None
    model: str
    purpose: str
    status: str
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    latency_ms: float
    error: str | None


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model of the catalogue; prices are USD for a million tokens."""

    name: str
    kind: str
    provider: str
    context_window: int
    max_output_tokens: int
    input_price: Decimal | None
    output_price: Decimal | None
    strengths: tuple[str, ...]
    quality: int


async def record_model_call(connection: Connection, call: ModelCallRecord) -> None:
    """Keep what a call used and cost."""
    await connection.execute(
        "select record_model_call(%s, %s::bigint, %s, %s, %s, %s, %s::integer, %s::integer, %s::numeric,"
        " %s::double precision, %s)",
        [
            call.tenant_id,
            call.run_id,
            call.step,
            call.model,
            call.purpose,
            call.status,
            call.input_tokens,
            call.output_tokens,
            call.cost,
            call.latency_ms,
            call.error,
        ],
    )


async def register_models(connection: Connection, models: Sequence[ModelEntry]) -> None:
    """Bring the catalogue up to what this process was configured with."""
    await connection.execute(
        "select register_models(%s::text[], %s::text[], %s::text[], %s::integer[], %s::integer[], %s::numeric[],"
        " %s::numeric[], %s::text[], %s::smallint[])",
        [
            [m.name for m in models],
            [m.kind for m in models],
            [m.provider for m in models],
            [m.context_window for m in models],
            [m.max_output_tokens for m in models],
            [m.input_price for m in models],
            [m.output_price for m in models],
            [",".join(m.strengths) for m in models],
            [m.quality for m in models],
        ],
    )
