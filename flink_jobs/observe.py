"""Second operator: a shard's users, merchants, devices and IPs observe their part of a batch.

The home part of a batch passes through beside its home shard's observations, so that every part reaches ``infer`` on one edge.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flink_jobs.cores import ByteMap, Part
from flink_jobs.entities import EntityLogs
from flink_jobs.packing import Entry, FeaturePart, ObservationPart, join_home, peek_header, unpack_home
from fraud.extra import ExtraFeatures
from fraud.vector import Evaluator

__all__ = ["Observe"]

MAPS = ("entities",)


class Observe:
    """Core of the second operator; one a subtask."""

    def __init__(self, logs: EntityLogs, evaluator: Evaluator) -> None:
        self._logs = logs
        self._widths = [columns.stop - columns.start for columns in evaluator.catalogue.slices]
        self._extra = ExtraFeatures(())

    def close(self) -> None:
        """Release what the core holds."""
        self._logs.close()

    def own(self, shards: list[int]) -> None:
        """See ``EntityLogs.own``; called once, before anything else."""
        self._logs.own(shards)

    def heal(self, shard: int, maps: Mapping[str, ByteMap]) -> int:
        """See ``EntityLogs.heal``."""
        return self._logs.heal(shard, maps["entities"])

    def process(self, shard: int, payload: bytes, maps: Mapping[str, ByteMap]) -> list[Part]:
        """Apply a part's events, labels and erasures to this shard's entities and answer with their features."""
        part_type, header = peek_header(payload)
        if part_type == b"C":
            return [Part(shard, payload)]
        if part_type == b"O":
            return [Part(header.home_shard, self._answer(ObservationPart.unpack(payload), maps["entities"]))]
        home, own = unpack_home(payload)
        if not own:
            return [Part(shard, payload)]
        answer = self._answer(ObservationPart.unpack(own), maps["entities"])
        return [Part(shard, join_home(home, answer))]

    def _extra_of(self, names: tuple[str, ...]) -> ExtraFeatures | None:
        """What a part asks for beyond the catalogue; the next part will ask for the same."""
        if names != self._extra.names:
            self._extra = ExtraFeatures(names)
        return self._extra if names else None

    def _answer(self, part: ObservationPart, states: ByteMap) -> bytes:
        table = part.table.copy()
        entries = part.entries.tolist()
        extra = self._extra_of(part.extra)
        own = self._widths if extra is None else [width + extra.width(kind) for kind, width in enumerate(self._widths)]
        widths = [0 if entry else own[kind] for kind, entry in zip(table[:, 1].tolist(), entries, strict=True)]
        values = np.empty(sum(widths))
        seqs = []
        at = 0
        for (_, kind, row), key, entry, width in zip(part.table.tolist(), part.keys, entries, widths, strict=True):
            event = part.rows[row]
            if entry == Entry.EVENT:
                out = values[at : at + width]
                if extra is not None:
                    self._logs.peek(states, kind, key, event, extra, out[self._widths[kind] :])
                    out = out[: self._widths[kind]]
                seqs.append(self._logs.observe(states, kind, key, event, out))
            elif entry == Entry.LABEL:
                seqs.append(self._logs.label(states, kind, key, int(event[0]), int(event[1]), bool(event[2])))
            else:
                seqs.append(self._logs.erase(states, kind, key))
            at += width
        table[:, 2] = seqs
        self._logs.commit(states)
        return FeaturePart(part.header, table, np.array(widths, dtype=np.int64), values).pack()
