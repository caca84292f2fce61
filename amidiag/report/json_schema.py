"""The JSON Schema of the envelope, generated from `amidiag.model`."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from amidiag import model
from amidiag.model import DATA_OF, SCHEMA, Envelope, NoData

_PRIMITIVES: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) that every command's `--json` output satisfies."""
    definitions: dict[str, Any] = {}
    root = _of(Envelope, definitions)
    envelope = definitions["Envelope"]
    envelope["properties"]["schema"] = {"const": SCHEMA}
    # A command that failed has no data, whatever its own would be.
    envelope["allOf"] = [
        {
            "if": {"properties": {"command": {"const": command}}},
            "then": {"properties": {"data": {"anyOf": [_of(kind, definitions), _of(NoData, definitions)]}}},
        }
        for command, kind in DATA_OF.items()
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions}


def _of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint in _PRIMITIVES:
        return dict(_PRIMITIVES[hint])
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _of_class(hint, definitions)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_of(a, definitions) for a in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    raise TypeError(f"amidiag.model uses {hint!r}, which the schema generator does not know")


def _of_class(hint: type, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint.__name__ not in definitions:
        definitions[hint.__name__] = {}
        # The classes of other commands are no names of the module that mentions them (amidiag/model).
        hints = get_type_hints(hint, localns={name: getattr(model, name) for name in dir(model)})
        definitions[hint.__name__] = {
            "type": "object",
            "description": (hint.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " "),
            "properties": {name: _of(h, definitions) for name, h in hints.items()},
            "required": list(hints),
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{hint.__name__}"}
