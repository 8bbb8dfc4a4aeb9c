"""JSON Schema (2020-12) from an Avro schema of ours, for the doors that speak JSON: the HTTP API and the generator.

One contract, two spellings: what the JSON Schema accepts can be encoded with the Avro schema, and the other way round, save NaN
and the infinities, which JSON does not have.  What values may say beyond their types is :mod:`serving.validate`.
"""

from __future__ import annotations

from typing import Any

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PRIMITIVES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "double": {"type": "number"},
    "int": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    # as Avro's own JSON encoding has it: one character from U+0000 to U+00FF for each byte
    "bytes": {"type": "string", "pattern": "^[\\u0000-\\u00ff]*$"},
    "null": {"type": "null"},
}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Derive the JSON Schema of an object that holds one record.

    Fields without a default are required, unknown fields are refused, a nullable field accepts ``null``.

    Args:
        schema: a parsed record definition of ``avro/``.

    Raises:
        KeyError: a type that our schemas do not use.
    """
    names: dict[str, dict[str, Any]] = {}
    return {"$schema": _DIALECT, "title": schema["name"], **_of(schema, names)}


def _of(type_: Any, names: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(type_, str):
        return names[type_] if type_ in names else dict(_PRIMITIVES[type_])
    if isinstance(type_, list):
        return {"anyOf": [_of(branch, names) for branch in type_]}
    if type_["type"] == "array":
        return {"type": "array", "items": _of(type_["items"], names)}
    made = names[type_["name"]] = {"enum": type_["symbols"]} if type_["type"] == "enum" else _of_record(type_, names)
    return made


def _of_record(type_: dict[str, Any], names: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": type_["doc"],
        "properties": {field["name"]: _of_field(field, names) for field in type_["fields"]},
        "required": [field["name"] for field in type_["fields"] if "default" not in field],
        "additionalProperties": False,
    }


def _of_field(field: dict[str, Any], names: dict[str, dict[str, Any]]) -> dict[str, Any]:
    derived = {**_of(field["type"], names), "description": field["doc"]}
    if "default" in field:
        derived["default"] = field["default"]
    return derived
