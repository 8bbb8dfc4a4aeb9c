"""Chosen fields of many Avro records at once, as columns: no Python object a record, no interpreter lock while it reads.

Decoding a decision into dataclasses takes 33 us, most of it for what a computation over history never looks at.  Here a schema is
compiled into a short program, one instruction a field, and a compiled loop runs it over each record of a buffer: it takes down the
value of a chosen field, or where a string or a vector stands, and steps over the rest.

What arrives is untrusted: every read is bounded by its record, and the loop accepts no record that :mod:`serving.avro_compiler`
would refuse.  It may refuse one that is merely unusual (an array in two blocks); which it was, and what to tell the producer, is
for the caller to find out with the slower decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from serving import avro_walk
from serving.avro_walk import ARRAY, BOOLEAN, BYTES, DOUBLE, DOUBLES, ENUM, FIXED, INT, LONG, NEXT, NULL, NULLABLE, STRING

__all__ = ["ColumnReader", "Columns", "NotCovered", "Unread"]

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

_MAX_SYMBOLS = 64  # one byte
_MAX_FIXED_BYTES = 1 << 20
_ITEMS_PER_RECORD = 8  # a first guess; a table that is too short is made twice as long

_FIXED_BYTES = {"float": 4, "double": 8}
_NUMBERS = {"long": LONG, "int": INT, "boolean": BOOLEAN, "double": DOUBLE}
_COMPLEX = ("record", "enum", "fixed", "array", "map")
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


class NotCovered(ValueError):
    """A schema beyond what columns are read of: general unions, maps, arrays within arrays, a field that is not as in ours."""


class Unread(ValueError):
    """Records that the loop does not accept: bad ones, or unusual ones."""


@dataclass(slots=True, frozen=True)
class Columns:
    """What was read of N records.

    ``frame`` has one row a record and one column a chosen field, by its dotted name.  ``items`` has, for each array of records, one
    row an item: ``row`` is the record's, the rest by their names within the item.  ``vectors`` has float64[N, width] for each array
    of doubles; a record with another number of them is missing (NaN) throughout.
    """

    frame: pl.DataFrame
    items: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    vectors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @staticmethod
    def concatenated(parts: Sequence[Columns]) -> Columns:
        """The records of all parts, in their order; there must be at least one part, and all of the same fields."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0] + [part.frame.height for part in parts])
        return Columns(
            pl.concat([part.frame for part in parts]),
            {
                name: pl.concat(
                    [part.items[name].with_columns(pl.col("row") + int(start)) for part, start in zip(parts, starts, strict=False)]
                )
                for name in parts[0].items
            },
            {name: np.concatenate([part.vectors[name] for part in parts]) for name in parts[0].vectors},
        )


class ColumnReader:
    """Reads chosen fields of records that one schema has written.

    Args:
        ours: our schema of the record, which says what the fields are.
        fields: dotted names of scalar fields: of the record, of a record within (``transaction.card_id``), or of the items of an
            array of records (``entities.seq``); the items of an array of anything else are called ``item`` (``blacklisted.item``).
        vectors: names of arrays of doubles, and how many each is to have.
        writer: the writer's schema when it is not ours.  A field that it has not is read as our default.

    Raises:
        NotCovered: the writer's schema, or a field of ours, is beyond what this reads.
    """

    def __init__(
        self, ours: dict[str, Any], fields: Sequence[str], vectors: Mapping[str, int], writer: dict[str, Any] | None = None
    ) -> None:
        self._fields = {name: _Field(name, *_lookup(ours, name)) for name in (*fields, *vectors)}
        self._widths = dict(vectors)
        self._arrays = list(dict.fromkeys(f.array for f in self._fields.values() if f.array))
        # items of arrays stand in a table of their own; where they do, is a slot of their record
        in_rows = [*(name for name, f in self._fields.items() if not f.array), *self._arrays]
        in_items = [name for name, f in self._fields.items() if f.array]
        slots = {name: 2 * place for names in (in_rows, in_items) for place, name in enumerate(names)}
        if writer is not None:
            _Likeness(ours, writer).demand(ours, writer, ours["name"])
        compiler = _Compiler(slots, _names(writer or ours))
        compiler.record(writer or ours, "")
        self._program = np.array(compiler.program, dtype=np.int64)
        self._slots = slots
        self._row_words, self._item_words = 2 * len(in_rows), 2 * len(in_items)
        self._absent = slots.keys() - compiler.found
        for name in self._absent:
            if name not in self._fields or self._fields[name].default is _REQUIRED:
                raise NotCovered(f"the writer's schema has no {name}")

    def read(self, buffer: bytearray, starts: Ints, ends: Ints) -> Columns:
        """Read the records that stand at ``buffer[starts[i]:ends[i]]``.

        Raises:
            Unread: at least one is not accepted.
        """
        data = np.frombuffer(buffer, dtype=np.uint8)
        if len(starts) and (starts.min() < 0 or ends.max() > len(data) or (ends < starts).any()):
            raise IndexError("a record outside the buffer")
        rows = np.empty((len(starts), self._row_words), dtype=np.int64)
        capacity, found = len(starts) * _ITEMS_PER_RECORD, -1
        while found < 0:
            items = np.empty((capacity if self._arrays else 0, self._item_words), dtype=np.int64)
            refused, found = avro_walk.walk(data, starts, ends, self._program, rows, items)
            capacity = 2 * capacity + 1
        if refused:
            raise Unread(f"{refused} records")
        return self._columns(data, rows, items[:found])

    def _columns(self, data: Bytes, rows: Ints, items: Ints) -> Columns:
        of = {array: [f for f in self._fields.values() if f.array == array] for array in ("", *self._arrays)}
        frames = {}
        for array in self._arrays:
            firsts, counts = (rows[:, self._slots[array] + word] for word in (0, 1))
            # items of one record are neighbours; with several arrays the table is shared, so each takes its own lines
            lines = items if len(self._arrays) == 1 else items[_ranges(firsts, counts)]
            columns = [self._series(f, data, lines).alias(f.name.removeprefix(f"{array}.")) for f in of[array]]
            frames[array] = pl.DataFrame([pl.Series("row", np.repeat(np.arange(len(rows)), counts)), *columns])
        return Columns(
            pl.DataFrame([self._series(f, data, rows) for f in of[""] if f.name not in self._widths]),
            frames,
            {name: _gathered_vectors(data, rows, self._slots[name], width) for name, width in self._widths.items()},
        )

    def _series(self, wanted: _Field, data: Bytes, lines: Ints) -> pl.Series:
        if wanted.name in self._absent:
            return pl.Series(wanted.name, [wanted.default], dtype=wanted.dtype).new_from_index(0, len(lines))
        slot = self._slots[wanted.name]
        if wanted.type_ == "string":
            return _strings(data, lines, slot).alias(wanted.name)
        numbers = np.ascontiguousarray(lines[:, slot])
        if wanted.symbols:
            known = pl.Series(wanted.name, lines[:, slot + 1] != NULL)
            return pl.Series(wanted.name, wanted.symbols, dtype=pl.String).gather(numbers).set(~known, None)
        type_ = pa.float64() if wanted.type_ == "double" else pa.int64()
        array = pa.Array.from_buffers(type_, len(lines), [_bitmap(lines[:, slot + 1]), pa.py_buffer(numbers)])
        return cast(pl.Series, pl.from_arrow(array)).alias(wanted.name).cast(wanted.dtype)


# Schemas


_REQUIRED = object()
_ITEM = "item"  # of an array of what has no fields
_DTYPES: dict[str, Any] = {"string": pl.String, "long": pl.Int64, "int": pl.Int64, "boolean": pl.Boolean, "double": pl.Float64}


class _Field:
    """A chosen field: what our schema says of it."""

    def __init__(self, name: str, array: str, type_: Any, default: Any) -> None:
        self.name, self.array, self.default = name, array, default
        inner = type_[1] if isinstance(type_, list) else type_
        self.symbols: list[str] = inner["symbols"] if isinstance(inner, dict) and inner["type"] == "enum" else []
        self.type_: str = "string" if self.symbols else inner if isinstance(inner, str) else inner["type"]
        self.dtype = _DTYPES.get(self.type_, pl.Null)
        if self.symbols:
            self.type_ = "enum"
        elif self.type_ not in _DTYPES and not (self.type_ == "array" and inner["items"] == "double"):
            raise NotCovered(f"{name}: columns are not read of {self.type_}")


def _lookup(ours: dict[str, Any], name: str) -> tuple[str, Any, Any]:
    """The array of records that a field belongs to, if any; its type; its default."""
    named = _names(ours)
    record, array, path = ours, "", name.split(".")
    for depth, part in enumerate(path, start=1):
        found = next(f for f in record["fields"] if f["name"] == part)
        type_ = _resolved(found["type"], named)
        if depth == len(path):
            inner = [type_[0], _resolved(type_[1], named)] if isinstance(type_, list) else type_
            return array, inner, found.get("default", _REQUIRED)
        if isinstance(type_, dict) and type_["type"] == "array":
            array, type_ = ".".join(path[:depth]), _resolved(type_["items"], named)
            if path[depth:] == [_ITEM]:
                return array, type_, _REQUIRED
        record = type_
    raise ValueError("a field without a name")


def _names(schema: Any) -> dict[str, dict[str, Any]]:
    """Every named type within a schema, by its name without namespace."""
    named: dict[str, dict[str, Any]] = {}
    for definition in _definitions(schema):
        name = definition["name"].rpartition(".")[2]
        if named.setdefault(name, definition) is not definition:
            raise NotCovered(f"two types of the name {name}")
    return named


def _definitions(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for branch in node:
            yield from _definitions(branch)
    elif isinstance(node, dict):
        if node["type"] in ("record", "enum", "fixed"):
            yield node
        for key in ("type", "items", "values"):
            if isinstance(node.get(key), dict | list):
                yield from _definitions(node[key])
        for member in node.get("fields", ()):
            yield from _definitions(member["type"])


def _resolved(type_: Any, named: Mapping[str, Any]) -> Any:
    """Follow a name to its definition and unwrap ``{"type": "string"}``."""
    if isinstance(type_, dict) and type_["type"] not in _COMPLEX:
        return _resolved(type_["type"], named)
    if not isinstance(type_, str) or type_ in _PRIMITIVES:
        return type_
    name = type_.rpartition(".")[2]
    if name not in named:
        raise NotCovered(f"the type {name}")
    return named[name]


class _Likeness:
    """Demands that two schemas differ in documentation and in which fields their records have, and in nothing else.

    Then nothing of a record has to be resolved: what both have is the same bytes, and what the writer has more is stepped over.
    """

    def __init__(self, ours: dict[str, Any], writer: dict[str, Any]) -> None:
        self._ours, self._theirs = _names(ours), _names(writer)

    def demand(self, our_type: Any, their_type: Any, where: str) -> None:
        """Raise NotCovered where it is not so."""
        mine, theirs = _resolved(our_type, self._ours), _resolved(their_type, self._theirs)
        if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
            for one, other in zip(mine, theirs, strict=True):
                self.demand(one, other, where)
        elif isinstance(mine, dict) and isinstance(theirs, dict) and mine["type"] == theirs["type"]:
            self._demand_of_one_kind(mine, theirs, where)
        elif not isinstance(mine, str) or mine != theirs:
            raise NotCovered(f"{where}: not as in our schema")

    def _demand_of_one_kind(self, mine: dict[str, Any], theirs: dict[str, Any], where: str) -> None:
        if mine["type"] == "array":
            self.demand(mine["items"], theirs["items"], where)
        elif mine["type"] == "record":
            written = {f["name"]: f for f in theirs["fields"]}
            for f in mine["fields"]:
                if f["name"] in written:
                    self.demand(f["type"], written[f["name"]]["type"], f"{where}.{f['name']}")
                elif "aliases" in f:
                    raise NotCovered(f"{where}.{f['name']}: it may have had another name")
        elif mine["type"] != "enum" or mine["symbols"] != theirs["symbols"]:
            raise NotCovered(f"{where}: not as in our schema")


class _Compiler:
    """Turns a writer's schema into instructions; ``found`` are the chosen fields that it has."""

    def __init__(self, slots: Mapping[str, int], named: Mapping[str, Any]) -> None:
        self.program: list[tuple[int, int, int, int]] = []
        self.found: set[str] = set()
        self._slots = slots
        self._named = named
        self._open: list[str] = []
        self._in_array = False

    def record(self, type_: dict[str, Any], path: str) -> None:
        """Emit the fields of a record, in the order in which they are written."""
        if type_["name"] in self._open:
            raise NotCovered(f"{type_['name']} contains itself")
        self._open.append(type_["name"])
        for member in type_["fields"]:
            self._value(member["type"], f"{path}.{member['name']}" if path else member["name"])
        self._open.pop()

    def _slot(self, path: str) -> int:
        slot = self._slots.get(path, -1)
        if slot >= 0:
            self.found.add(path)
        return slot

    def _add(self, operation: int, slot: int = -1, argument: int = 0, other: int = 0) -> int:
        self.program.append((operation, slot, argument, other))
        return len(self.program) - 1

    def _value(self, type_: Any, path: str) -> None:
        resolved = _resolved(type_, self._named)
        kind = "union" if isinstance(resolved, list) else resolved if isinstance(resolved, str) else resolved["type"]
        if kind == "union":
            self._union(resolved, path)
        elif kind == "record":
            self.record(resolved, path)
        elif kind == "array":
            self._array(resolved, path)
        elif kind == "enum" and len(resolved["symbols"]) <= _MAX_SYMBOLS:
            self._add(ENUM, self._slot(path), len(resolved["symbols"]))
        elif kind in ("string", "bytes"):
            self._add(STRING if kind == "string" else BYTES, self._slot(path))
        elif kind in _NUMBERS and (kind not in _FIXED_BYTES or path in self._slots):
            self._add(_NUMBERS[kind], self._slot(path))
        elif kind in _FIXED_BYTES:
            self._add(FIXED, -1, _FIXED_BYTES[kind])
        elif kind == "fixed" and 0 < resolved["size"] <= _MAX_FIXED_BYTES:
            self._add(FIXED, -1, resolved["size"])
        else:
            raise NotCovered(f"{path}: {kind}")

    def _union(self, branches: list[Any], path: str) -> None:
        if len(branches) != 2 or branches[0] != "null":
            raise NotCovered(f"{path}: a union other than of null and one type")
        at = self._add(NULLABLE, self._slot(path))
        before = set(self.found)
        self._value(branches[1], path)
        if self.found - before:
            raise NotCovered(f"{path}: fields of something that may be null")
        self.program[at] = (NULLABLE, self.program[at][1], len(self.program), 0)

    def _array(self, type_: dict[str, Any], path: str) -> None:
        if self._in_array:
            raise NotCovered(f"{path}: an array within an array")
        if _resolved(type_["items"], self._named) == "double":
            self._add(DOUBLES, self._slot(path))
            return
        self._in_array = True
        at = self._add(ARRAY, self._slot(path))
        items = _resolved(type_["items"], self._named)
        is_record = isinstance(items, dict) and items["type"] == "record"
        self._value(type_["items"], path if is_record else f"{path}.{_ITEM}")
        if len(self.program) == at + 1:
            raise NotCovered(f"{path}: items without bytes")
        self._add(NEXT, -1, at + 1)
        self.program[at] = (ARRAY, self.program[at][1], len(self.program), 0)
        self._in_array = False


# Table to columns


def _gathered_vectors(data: Bytes, rows: Ints, slot: int, width: int) -> NDArray[np.float64]:
    vectors = np.empty((len(rows), width), dtype="<f8")
    vectors[rows[:, slot + 1] != width] = np.nan
    avro_walk.gather_vectors(data, rows, slot, vectors.view(np.uint8))
    return vectors


def _strings(data: Bytes, lines: Ints, slot: int) -> pl.Series:
    lengths = lines[:, slot + 1]
    offsets = np.zeros(len(lines) + 1, dtype=np.int64)
    np.cumsum(np.maximum(lengths, 0), out=offsets[1:])
    out = np.empty(int(offsets[-1]), dtype=np.uint8)
    avro_walk.gather(data, lines, slot, offsets, out)
    array = pa.LargeStringArray.from_buffers(len(lines), pa.py_buffer(offsets), pa.py_buffer(out), _bitmap(lengths))
    return cast(pl.Series, pl.from_arrow(array))


def _bitmap(seconds: Ints) -> pa.Buffer | None:
    """Arrow's bitmap of what is not null; None where nothing is."""
    known = seconds != NULL
    return None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))


def _ranges(firsts: Ints, counts: Ints) -> Ints:
    """The numbers ``firsts[i] … firsts[i] + counts[i] - 1``, for one i after the other."""
    shifts = firsts - np.concatenate([[0], np.cumsum(counts)[:-1]])
    ranges: Ints = np.repeat(shifts, counts) + np.arange(int(counts.sum()))
    return ranges
