"""A task's arguments as a type: what the API validates against, and what a worker decodes a run's arguments with."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec


class Signature:
    """The arguments of a task or workflow, after the context or run that comes first.

    Parameters
    ----------
    function
        The author's function. Arguments without annotation take any JSON.
    skip
        How many leading parameters are not arguments (1 for a workflow's run).
    """

    def __init__(self, function: Callable[..., Any], *, skip: int) -> None:
        hints = typing.get_type_hints(function)
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        open_ended = False
        self._names: list[str] = []
        for parameter in list(inspect.signature(function).parameters.values())[skip:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                open_ended = True
                continue
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
                raise TypeError(
                    f"{function.__qualname__}: argument {parameter.name!r} is positional only,"
                    " but arguments travel by name: give each a name"
                )
            annotation = hints.get(parameter.name, Any)
            self._names.append(parameter.name)
            if parameter.default is inspect.Parameter.empty:
                fields.append((parameter.name, annotation))
            else:
                fields.append((parameter.name, annotation, msgspec.field(default_factory=partial(_default, parameter))))
        self._struct = msgspec.defstruct(
            "Arguments", fields, kw_only=True, forbid_unknown_fields=not open_ended, module=function.__module__
        )
        self._decoder = msgspec.json.Decoder(self._struct)

    def json_schema(self) -> str:
        """The JSON schema of the arguments object, as text."""
        schemas, components = msgspec.json.schema_components([self._struct])
        schema = components.pop("Arguments") if "Arguments" in components else schemas[0]
        schema.pop("title", None)
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        if components:
            schema["$defs"] = components
        return msgspec.json.encode(schema).decode()

    def decode(self, args: str) -> dict[str, Any]:
        """Arguments by name, of the annotated types.

        Raises
        ------
        msgspec.ValidationError
            If `args`, JSON text, does not fit; the message names the argument.
        """
        arguments = self._decoder.decode(args)
        return {name: getattr(arguments, name) for name in self._names}


def _default(parameter: inspect.Parameter) -> Any:
    # A factory: msgspec would refuse a mutable default as such.
    return parameter.default
