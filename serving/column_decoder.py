"""Kafka values to columns: :mod:`serving.codec` for histories, thousands of values a call.

The codec stays the authority on what a value says.  A batch that :mod:`serving.avro_columns` does not take, because a record is bad
or unusual or its schema is too different from ours, goes through the codec record by record; it raises what is wrong, or gives
records that are then read as columns like the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serving.avro_columns import ColumnReader, Columns, NotCovered, Unread
from serving.codec import HEADER_BYTES, Codec, writer_id
from serving.schemas import load_schema

__all__ = ["ColumnDecoder"]

Ints = NDArray[np.int64]


class ColumnDecoder:
    """Decodes chosen fields of the values of one topic; may be used by several threads.

    Args:
        codec: knows the schemas, those of other versions included.
        name: our schema of the values.
        fields: see :class:`serving.avro_columns.ColumnReader`.
        vectors: see there.
    """

    def __init__(self, codec: Codec, name: str, fields: Sequence[str], vectors: Mapping[str, int] | None = None) -> None:
        self._codec = codec
        self._name = name
        self._fields = fields
        self._vectors = vectors or {}
        self._ours = ColumnReader(load_schema(name), fields, self._vectors)
        # by writer's id; None where columns cannot be read of what it has written
        self._readers: dict[int, ColumnReader | None] = {codec.schema_id(name): self._ours}

    def decode(self, values: Sequence[bytes | None]) -> Columns:
        """Return the columns of the values, in their order.

        Raises:
            InvalidEvent: one of them is bad; the same error as the codec's.
            Unavailable: the registry does not answer.
        """
        framed = _Framed(values)
        ids = framed.writer_ids(self._codec.max_value_bytes)
        bounds = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(values)]
        runs = [self._decode_run(int(ids[a]), framed, a, b) for a, b in pairwise(bounds) if b > a]
        return Columns.concatenated(runs or [_Framed([]).read(self._ours, 0, 0)])

    def _decode_run(self, schema_id: int, framed: _Framed, begin: int, end: int) -> Columns:
        """Decode values that one schema has written."""
        reader = self._reader(schema_id)
        if reader is not None:
            try:
                return framed.read(reader, begin, end)
            except Unread:
                pass
        rewritten = [self._codec.rewritten(self._name, value) for value in framed.values[begin:end]]
        return _Framed(rewritten).read(self._ours, 0, end - begin)

    def _reader(self, schema_id: int) -> ColumnReader | None:
        if schema_id not in self._readers:
            writer = self._codec.writer_schema(self._name, schema_id)
            try:
                self._readers[schema_id] = ColumnReader(load_schema(self._name), self._fields, self._vectors, writer)
            except NotCovered:
                self._readers[schema_id] = None
        return self._readers[schema_id]


class _Framed:
    """Values one after the other in one buffer."""

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self.values = values
        joined = [value or b"" for value in values]
        self._buffer = bytearray().join(joined)
        lengths = np.fromiter(map(len, joined), dtype=np.int64, count=len(joined))
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    def writer_ids(self, max_value_bytes: int) -> Ints:
        """Of each value the id of the schema that wrote it (:func:`serving.codec.writer_id`); raises InvalidEvent."""
        lengths = self._ends - self._starts
        if not ((lengths >= HEADER_BYTES) & (lengths <= max_value_bytes)).all():
            return self._one_by_one(max_value_bytes)
        headers = np.frombuffer(self._buffer, dtype=np.uint8)[self._starts[:, None] + np.arange(HEADER_BYTES)]
        ids: Ints = np.ascontiguousarray(headers[:, 1:]).view(">u4")[:, 0].astype(np.int64)
        return ids if not headers[:, 0].any() else self._one_by_one(max_value_bytes)

    def _one_by_one(self, max_value_bytes: int) -> Ints:
        return np.array([writer_id(value, max_value_bytes) for value in self.values], dtype=np.int64)

    def read(self, reader: ColumnReader, begin: int, end: int) -> Columns:
        """Read some of the values."""
        return reader.read(self._buffer, self._starts[begin:end] + HEADER_BYTES, self._ends[begin:end])
