"""Request bodies: JSON read strictly into a typed Struct, refused with the place and the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any, Generic, TypeVar, get_args

import msgspec
from litestar._openapi.schema_generation import SchemaCreator
from litestar.dto import AbstractDTO
from litestar.dto._backend import DTOBackend
from litestar.dto.data_structures import DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from howdah.app.api.problems import FieldError, Refused, pointer_of
from howdah.sql.errors import BadValue
from howdah.sql.json_values import checked

T = TypeVar("T")

_READER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def decode_body(data: bytes, kind: type[T], where: str = "") -> T:
    """JSON bytes as `kind`; `where` is a JSON pointer to put before those of errors.

    Raises
    ------
    Refused
        400 where it is not JSON, 422 with pointers where it is not what `kind` says.
    BadValue
        For NUL, lone surrogates, NaN and infinities, wherever they stand.
    """
    try:
        checked(data, "the body", len(data))
        return msgspec.json.decode(data, type=kind)
    except BadValue:
        if not _lenient(data):
            raise Refused(400, "invalid-json", "the body is not JSON") from None
        raise
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `")
        pointer = where + pointer_of(path.rstrip("`"))
        raise Refused(
            422, "invalid-request", f"{pointer or 'the body'}: {detail}", errors=[FieldError(detail, pointer)]
        ) from None
    except RecursionError:
        raise Refused(400, "invalid-json", "the body is nested too deeply: 1,000 levels are too many") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if _lenient(data):
            raise BadValue(
                "the body holds NaN, Infinity or a lone surrogate (\\ud800 to \\udfff), which JSON cannot: remove it"
            ) from None
        raise Refused(400, "invalid-json", f"the body is not JSON: {error}") from None


class JsonBody(AbstractDTO[T], Generic[T]):
    """Put ``dto=JsonBody[Kind]`` on a handler with ``data: Kind`` to read its body by :func:`decode_body`.

    Litestar would read any JSON first and then convert it: numbers lose digits, and NaN is only "not JSON".
    """

    def decode_bytes(self, value: bytes) -> T:
        return decode_body(value, self.model_type)

    @classmethod
    def create_for_field_definition(
        cls, field_definition: FieldDefinition, handler_id: str, backend_cls: type[DTOBackend] | None = None
    ) -> None:
        """Needs nothing made in advance."""

    @classmethod
    def is_supported_model_type_field(cls, field_definition: FieldDefinition) -> bool:
        """Requests only: Litestar asks whether it should also write responses."""
        return False

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: SchemaCreator
    ) -> Reference | Schema:
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Generator[DTOFieldDefinition, None, None]:
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False


class JsonItems(JsonBody[T], Generic[T]):
    """For a batch whose bad items fail alone: ``data: list[bytes]``, the items as :func:`split_items` finds them.

    `T` is a Struct with one field, a list with a `max_length`; it documents the body.
    """

    def decode_bytes(self, value: bytes) -> Any:
        (field,) = msgspec.structs.fields(self.model_type)  # type: ignore[arg-type]
        (bound,) = [meta.max_length for meta in get_args(field.type) if isinstance(meta, msgspec.Meta)]
        return split_items(value, field.name, bound or 0)

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: SchemaCreator
    ) -> Reference | Schema:
        return schema_creator.for_field_definition(FieldDefinition.from_annotation(cls.model_type))


def split_items(data: bytes, key: str, most: int) -> list[bytes]:
    """The items of ``{key: [item, …]}`` as they stand, unread, so that a bad one can fail alone.

    Raises
    ------
    Refused
        400 where it is not JSON at all, 422 where it has another form, 413 above `most` items.
    """
    wrong = Refused(422, "invalid-request", f'send one object with one list: {{"{key}": [...]}}')
    try:
        text = data.decode()
        start = re.match(rf'\s*{{\s*"{key}"\s*:\s*\[\s*', text)
        if start is None:
            json.loads(text)
            raise wrong
        items: list[bytes] = []
        at = start.end()
        while not text.startswith("]", at):
            if len(items) == most:
                raise Refused(413, "too-many-items", f"the batch has more than {most:,} items: send it in parts")
            if items:
                at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            _, end = _READER.raw_decode(text, at)
            items.append(text[at:end].encode())
            at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[at : at + 1] not in (",", "]"):
                raise Refused(400, "invalid-json", f"the body is not JSON: a comma or ] is missing at character {at}")
        if text[at + 1 :].strip(" \t\r\n") != "}":
            raise wrong
    except (ValueError, RecursionError) as error:
        raise Refused(400, "invalid-json", f"the body is not JSON: {error}") from None
    return items


def _lenient(data: bytes) -> bool:
    """Whether Python's own reader takes it, which reads NaN, Infinity and lone surrogates beside JSON."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
