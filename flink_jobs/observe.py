"""Second operator: a shard's users, merchants, devices and IPs observe their part of a batch.

The home part of a batch only passes through, so that both of its kinds of part reach ``infer`` on one edge.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flink_jobs.cores import ByteMap, Part
from flink_jobs.entities import EntityLogs
from flink_jobs.packing import FeaturePart, ObservationPart, peek_header
from fraud.vector import Evaluator

__all__ = ["Observe"]

MAPS = ("entities",)


class Observe:
    """Core of the second operator; one a subtask."""

    def __init__(self, logs: EntityLogs, evaluator: Evaluator) -> None:
        self._logs = logs
        self._widths = [columns.stop - columns.start for columns in evaluator.catalogue.slices]

    def close(self) -> None:
        """Release what the core holds."""
        self._logs.close()

    def process(self, shard: int, payload: bytes, maps: Mapping[str, ByteMap]) -> list[Part]:
        """Apply a part's events and labels to this shard's entities and answer with their features."""
        part_type, header = peek_header(payload)
        if part_type == b"H":
            return [Part(shard, payload)]
        part = ObservationPart.unpack(payload)
        states = maps["entities"]
        table = part.table.copy()
        labels = part.is_label.tolist()
        widths = np.array([0 if label else self._widths[kind] for kind, label in zip(table[:, 1].tolist(), labels, strict=True)])
        values = np.empty(int(widths.sum()))
        at = 0
        for i, ((_, kind, row), key) in enumerate(zip(part.table.tolist(), part.keys, strict=True)):
            event = part.rows[row]
            if labels[i]:
                seq = self._logs.label(states, kind, key, int(event[0]), int(event[1]), bool(event[2]))
            else:
                seq = self._logs.observe(states, kind, key, event, values[at : at + widths[i]])
            at += int(widths[i])
            table[i, 2] = seq
        self._logs.commit(states)
        return [Part(header.home_shard, FeaturePart(header, table, widths.astype(np.int64), values).pack())]
