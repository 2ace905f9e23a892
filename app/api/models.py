"""`/v1/models`, in OpenAI's shape: what can be chosen from."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import PathParameter
from sqlalchemy import Row, select

from howdah.app.api.problems import Refused
from howdah.app.composition import Resources
from howdah.sql.tables import model

# A catalogue is configured by hand: it has tens of models.
MAX_MODELS = 1000


class ModelFacts(msgspec.Struct, frozen=True):
    """What OpenAI's shape has no place for. Prices are US dollars for a million tokens, null where none applies."""

    kind: Literal["chat", "embedding"]
    context_window: int
    max_output_tokens: int
    input_price: Decimal | None
    output_price: Decimal | None
    strengths: list[str]
    quality: int


class Model(msgspec.Struct, frozen=True):
    """A model; `created` is when its entry last changed, in Unix seconds."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    howdah: ModelFacts


class ModelList(msgspec.Struct, frozen=True):
    """The models that are enabled, by name."""

    object: Literal["list"]
    data: list[Model]


class ModelController(Controller):
    """Models."""

    path = "/v1/models"
    tags = ("models",)

    @get()
    async def list_models(self, resources: NamedDependency[Resources]) -> ModelList:
        """List the models that can be chosen."""
        query = select(model).where(model.c.enabled).order_by(model.c.name).limit(MAX_MODELS)
        async with resources.engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        return ModelList("list", [_model(row) for row in rows])

    # A name may hold a slash, such as org/model.
    @get("/{model_id:path}")
    async def get_model(
        self,
        model_id: Annotated[str, PathParameter(description="The model's name.", max_length=200)],
        resources: NamedDependency[Resources],
    ) -> Model:
        """Look up a model."""
        name = str(model_id).lstrip("/")
        async with resources.engine.connect() as connection:
            row = (await connection.execute(select(model).where(model.c.name == name, model.c.enabled))).one_or_none()
        if row is None:
            raise Refused(404, "unknown-model", f"model {name!r} is unknown or disabled", title="Unknown model")
        return _model(row)


def _model(row: Row[Any]) -> Model:
    facts = ModelFacts(
        row.kind,
        row.context_window,
        row.max_output_tokens,
        row.input_price,
        row.output_price,
        row.strengths,
        row.quality,
    )
    return Model(row.name, "model", int(row.updated_at.timestamp()), row.provider, facts)
