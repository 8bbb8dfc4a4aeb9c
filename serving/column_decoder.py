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
        ids = np.fromiter((writer_id(value, self._codec.max_value_bytes) for value in values), dtype=np.int64, count=len(values))
        bounds = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist(), len(values)]
        runs = [self._decode_run(int(ids[a]), values[a:b]) for a, b in pairwise(bounds) if b > a]
        return Columns.concatenated(runs or [_read(self._ours, [])])

    def _decode_run(self, schema_id: int, values: Sequence[bytes | None]) -> Columns:
        """Decode values that one schema has written."""
        reader = self._reader(schema_id)
        if reader is not None:
            try:
                return _read(reader, values)
            except Unread:
                pass
        return _read(self._ours, [self._codec.rewritten(self._name, value) for value in values])

    def _reader(self, schema_id: int) -> ColumnReader | None:
        if schema_id not in self._readers:
            writer = self._codec.writer_schema(self._name, schema_id)
            try:
                self._readers[schema_id] = ColumnReader(load_schema(self._name), self._fields, self._vectors, writer)
            except NotCovered:
                self._readers[schema_id] = None
        return self._readers[schema_id]


def _read(reader: ColumnReader, values: Sequence[bytes | None]) -> Columns:
    ends = np.cumsum(np.fromiter((len(value or b"") for value in values), dtype=np.int64, count=len(values)))
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(values)] + HEADER_BYTES
    return reader.read(bytearray().join([value or b"" for value in values]), starts, ends)
