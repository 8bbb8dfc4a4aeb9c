"""Whether one Avro schema can read what another has written (Avro 1.12 specification, "Schema Resolution").

BACKWARD compatibility, which every topic of ours has, is this question asked of a new schema and the one before it.  Schemas are
plain parsed JSON.  Names are compared without their namespace, as the specification has it since 1.11.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["reading_problems"]

_PROMOTIONS = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
_NAMED = frozenset({"record", "error", "enum", "fixed"})


def reading_problems(reader: Any, writer: Any) -> list[str]:
    """Say why ``reader`` cannot read all that ``writer`` can write; empty when it can.

    Each problem is ``path: reason``, with the path of field names from the top record.
    """
    return list(_Comparison(_named_types(reader), _named_types(writer)).problems(reader, writer, ""))


def _named_types(schema: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def visit(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                visit(item)
        elif isinstance(node, dict):
            if node.get("type") in _NAMED:
                found[_short(node["name"])] = node
            for key in ("type", "items", "values"):
                if isinstance(node.get(key), dict | list):
                    visit(node[key])
            for field in node.get("fields", ()):
                visit(field["type"])

    visit(schema)
    return found


def _short(name: str) -> str:
    return name.rpartition(".")[2]


class _Comparison:
    """One reader against one writer; pairs of records already under comparison are taken as readable, so recursion ends."""

    def __init__(self, reader_names: dict[str, dict[str, Any]], writer_names: dict[str, dict[str, Any]]) -> None:
        self._reader_names = reader_names
        self._writer_names = writer_names
        self._assumed: set[tuple[str, str]] = set()

    def problems(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        reader, writer = _definition(reader, self._reader_names), _definition(writer, self._writer_names)
        if isinstance(writer, list):
            for branch in writer:
                yield from self.problems(reader, branch, path)
        elif isinstance(reader, list):
            if not any(self._readable(branch, writer, path) for branch in reader):
                yield f"{path or 'top'}: no branch of the union reads {_kind(writer)}"
        else:
            yield from self._of_one_type(reader, writer, path)

    def _readable(self, reader: Any, writer: Any, path: str) -> bool:
        # What was assumed while a branch was tried holds only if the branch does.
        assumed = set(self._assumed)
        readable = next(self.problems(reader, writer, path), None) is None
        if not readable:
            self._assumed = assumed
        return readable

    def _of_one_type(self, reader: Any, writer: Any, path: str) -> Iterator[str]:
        kind = _kind(reader)
        if kind != _kind(writer):
            if kind not in _PROMOTIONS.get(_kind(writer), ()):
                yield f"{path or 'top'}: {_kind(writer)} cannot be read as {kind}"
        elif kind == "array":
            yield from self.problems(reader["items"], writer["items"], f"{path}[]")
        elif kind == "map":
            yield from self.problems(reader["values"], writer["values"], f"{path}{{}}")
        elif kind in _NAMED:
            yield from self._of_named_type(kind, reader, writer, path)

    def _of_named_type(self, kind: str, reader: dict[str, Any], writer: dict[str, Any], path: str) -> Iterator[str]:
        name = _short(writer["name"])
        if name != _short(reader["name"]) and name not in {_short(alias) for alias in reader.get("aliases", ())}:
            yield f"{path or 'top'}: {name} is not {_short(reader['name'])}"
        elif kind == "fixed":
            if reader["size"] != writer["size"]:
                yield f"{path or 'top'}: fixed of {writer['size']} bytes cannot be read as {reader['size']}"
        elif kind == "enum":
            unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
            if unknown and "default" not in reader:
                yield f"{path or 'top'}: symbols {', '.join(unknown)} are unknown and there is no default"
        else:
            yield from self._of_records(reader, writer, path)

    def _of_records(self, reader: dict[str, Any], writer: dict[str, Any], path: str) -> Iterator[str]:
        pair = (_short(reader["name"]), _short(writer["name"]))
        if pair in self._assumed:
            return
        self._assumed.add(pair)
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            inner = f"{path}.{field['name']}" if path else field["name"]
            source = next((written[name] for name in (field["name"], *field.get("aliases", ())) if name in written), None)
            if source is not None:
                yield from self.problems(field["type"], source["type"], inner)
            elif "default" not in field:
                yield f"{inner}: it is new and has no default"


def _definition(type_: Any, names: dict[str, dict[str, Any]]) -> Any:
    """Follow a name to its definition and unwrap ``{"type": "string"}``."""
    if isinstance(type_, str):
        return names.get(_short(type_), type_)
    if isinstance(type_, dict) and type_["type"] not in _NAMED | {"array", "map"}:
        return _definition(type_["type"], names)
    return type_


def _kind(type_: Any) -> str:
    kind: str = type_ if isinstance(type_, str) else type_["type"] if isinstance(type_, dict) else "union"
    return "record" if kind == "error" else kind
