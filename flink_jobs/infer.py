"""Third operator: gathers the parts of a batch, scores it, and emits decisions, alerts, applied labels and dead letters.

Parts of a batch arrive from several shards; a batch leaves when it is whole and every earlier batch of its home shard has
left, so decisions of one card keep the order of its events.  Rule sets and model choices arrive as control records between
batches and are part of this operator's state, so a restore scores with what was in force at the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flink_jobs.cores import ByteMap, OutRow
from flink_jobs.packing import FeaturePart, HomePart, Item, ItemKind, peek_header
from fraud.catalogue import Catalogue
from fraud.decide import Outcome
from fraud.events import KINDS, Kind, Label, Transaction, entity_ids, entity_key
from serving.codec import Codec
from serving.logs import DecisionLog
from serving.records import Decision, EntityPosition, LabelApplied
from serving.scoring import Scorer, ScoringInput, alert_of
from serving.stream_metrics import StreamMetrics
from serving.versions import VersionedModels, VersionedRules

__all__ = ["Infer"]

MAPS = ("pending", "control")
_NEXT = "next"


@dataclass(slots=True)
class _Gathering:
    """Parts of one shard's batches that are not whole yet, by batch and part index, and the number of the next one to leave."""

    next_batch: int
    parts: dict[int, dict[int, bytes]] = field(default_factory=dict)


class Infer:
    """Core of the third operator; one a subtask.

    Args:
        codec: decodes bodies, encodes outputs.
        scorer: model, rules and policy applied to a batch.
        rules: rule sets by hash, parsed once.
        models: models by SHA-256, loaded once.
        catalogue: layout of the vector.
        blacklisted: names of the lists that a transaction is on.
        now_ms: wall clock, for how long a decision took; no decision depends on it.
        metrics: what was decided.
    """

    def __init__(
        self,
        codec: Codec,
        scorer: Scorer,
        rules: VersionedRules,
        models: VersionedModels,
        catalogue: Catalogue,
        *,
        blacklisted: Callable[[Transaction], list[str]],
        now_ms: Callable[[], int],
        metrics: StreamMetrics,
    ) -> None:
        self._codec = codec
        self._scorer = scorer
        self._rules = rules
        self._models = models
        self._columns = catalogue.slices
        self._size = catalogue.size
        self._blacklisted = blacklisted
        self._now_ms = now_ms
        self._metrics = metrics
        self._log = DecisionLog()
        self._gathering: dict[int, _Gathering] = {}

    def close(self) -> None:
        """Nothing to release."""

    def process(self, shard: int, payload: bytes, maps: Mapping[str, ByteMap]) -> list[OutRow]:
        """Take in one part; returns the rows of every batch that it makes ready to leave."""
        _, header = peek_header(payload)
        gathering = self._gathering_of(shard, maps["pending"])
        gathering.parts.setdefault(header.batch, {})[header.index] = payload
        rows: list[OutRow] = []
        left = gathering.next_batch
        while self._is_whole(gathering):
            batch = gathering.parts.pop(gathering.next_batch)
            rows += self._emit(shard, batch, maps["control"])
            for index in batch:
                if (gathering.next_batch, index) != (header.batch, header.index):
                    maps["pending"].remove(f"{gathering.next_batch}:{index}")
            gathering.next_batch += 1
        if gathering.next_batch != left:
            maps["pending"].put(_NEXT, gathering.next_batch.to_bytes(8, "little"))
        if header.batch >= gathering.next_batch:
            maps["pending"].put(f"{header.batch}:{header.index}", payload)
        return rows

    def control(self, shard: int, kind: str, payload: bytes | None, maps: Mapping[str, ByteMap]) -> None:
        """Put a rule set or a model in force for a shard; one that cannot be used is refused and the old one stays."""
        adopt = self._rules.adopt if kind == "rules" else self._models.adopt
        accepted = adopt(shard, payload)
        if accepted is None:
            self._metrics.refused(kind)
            return
        maps["control"].put(kind, accepted)

    def _gathering_of(self, shard: int, pending: ByteMap) -> _Gathering:
        gathering = self._gathering.get(shard)
        if gathering is None:
            gathering = self._gathering[shard] = _restored(pending)
        return gathering

    @staticmethod
    def _is_whole(gathering: _Gathering) -> bool:
        parts = gathering.parts.get(gathering.next_batch)
        if not parts:
            return False
        _, header = peek_header(next(iter(parts.values())))
        return len(parts) == header.parts

    def _emit(self, shard: int, parts: Mapping[int, bytes], control: ByteMap) -> list[OutRow]:
        home = HomePart.unpack(parts[0])
        answers = [FeaturePart.unpack(parts[index]) for index in sorted(parts) if index != 0]
        seqs = np.full((len(home.items), len(Kind)), -1, dtype=np.int64)
        seqs[:, Kind.CARD] = [item.card_seq for item in home.items]
        matrix = self._assemble(home.items, answers, seqs)
        rows = self._decide(shard, home.items, matrix, seqs, control)
        for position, item in enumerate(home.items):
            if item.kind == ItemKind.LABEL:
                rows.append(self._label_row(self._codec.decode_label(item.body), seqs[position]))
            elif item.kind == ItemKind.DEAD_LETTER:
                rows.append(OutRow("ledger", "transactions.dlq", None, item.body))
        return rows

    def _assemble(self, items: list[Item], answers: list[FeaturePart], seqs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Feature vectors of the batch's items, ``float64[items, F]``; writes the entities' numbers into ``seqs``."""
        matrix = np.full((len(items), self._size), np.nan)
        for position, item in enumerate(items):
            if item.features is not None:
                matrix[position, : len(item.features)] = item.features
        for answer in answers:
            at = 0
            for (position, kind, seq), width in zip(answer.table.tolist(), answer.widths.tolist(), strict=True):
                seqs[position, kind] = seq
                if width:
                    matrix[position, self._columns[kind]] = answer.values[at : at + width]
                    at += width
        return matrix

    def _decide(
        self, shard: int, items: list[Item], matrix: NDArray[np.float64], seqs: NDArray[np.int64], control: ByteMap
    ) -> list[OutRow]:
        positions = [position for position, item in enumerate(items) if item.kind == ItemKind.TRANSACTION]
        if not positions:
            return []
        transactions = [self._codec.decode_transaction(items[position].body) for position in positions]
        rules = self._rules.of(shard, lambda: control.get("rules"))
        model = self._models.of(shard, lambda: control.get("models"))
        began_s = time.perf_counter()
        decisions = self._scorer.score(
            ScoringInput(
                transactions=transactions,
                features=matrix[positions],
                late=[items[position].late for position in positions],
                entities=[_positions(tx, seqs[position]) for tx, position in zip(transactions, positions, strict=True)],
                blacklisted=[self._blacklisted(tx) for tx in transactions],
            ),
            rules,
            model,
        )
        self._measure(decisions, [items[position].timestamp_ms for position in positions], time.perf_counter() - began_s)
        rows: list[OutRow] = []
        for decision in decisions:
            rows += self._rows_of(decision)
        return rows

    def _measure(self, decisions: list[Decision], append_ms: list[int], inference_s: float) -> None:
        now_ms = self._now_ms()
        first = decisions[0]
        self._metrics.decided(
            scores=[decision.score for decision in decisions],
            model_scores=None if first.model_score is None else [decision.model_score or 0.0 for decision in decisions],
            outcomes=[Outcome[decision.outcome] for decision in decisions],
            append_time_ms=append_ms,
            newest_event_ms=max(decision.event_time_ms for decision in decisions),
            now_ms=now_ms,
            inference_s=inference_s,
            degraded=first.degraded,
        )
        self._log.decisions(decisions, latency_ms=float(now_ms - min(append_ms)))

    def _rows_of(self, decision: Decision) -> list[OutRow]:
        key = decision.transaction.card_id.encode()
        value = self._codec.encode_decision(decision)
        rows = [OutRow("fast", "decisions", key, value), OutRow("ledger", "fraud-events", key, value)]
        alert = alert_of(decision)
        if alert is not None:
            self._metrics.alerts(alert.reason, alert.severity)
            rows.append(OutRow("ledger", "fraud_alerts", key, self._codec.encode_alert(alert)))
        return rows

    def _label_row(self, label: Label, seqs: NDArray[np.int64]) -> OutRow:
        ids = (label.card_id, label.user_id, label.merchant_id)
        entities = [
            EntityPosition(KINDS[kind], entity_key(label.tenant_id, entity), int(seqs[kind]))
            for kind, entity in zip((Kind.CARD, Kind.USER, Kind.MERCHANT), ids, strict=True)
            if entity is not None
        ]
        applied = LabelApplied(
            transaction_id=label.transaction_id,
            tenant_id=label.tenant_id,
            is_fraud=label.is_fraud,
            label_time_ms=label.label_time_ms,
            transaction_time_ms=label.transaction_time_ms,
            source=label.source,
            entities=entities,
        )
        return OutRow("ledger", "labels-applied", label.card_id.encode(), self._codec.encode_label_applied(applied))


def _restored(pending: ByteMap) -> _Gathering:
    """What the state knows of a shard: nothing at first, after a restore the parts that had arrived."""
    gathering = _Gathering(next_batch=1)
    for name, data in pending.items():
        if name == _NEXT:
            gathering.next_batch = int.from_bytes(data, "little")
        else:
            batch, index = map(int, name.split(":"))
            gathering.parts.setdefault(batch, {})[index] = data
    return gathering


def _positions(tx: Transaction, seqs: NDArray[np.int64]) -> list[EntityPosition]:
    """Where each log that the transaction entered stood after it."""
    return [
        EntityPosition(KINDS[kind], entity_key(tx.tenant_id, entity), int(seqs[kind]))
        for kind, entity in enumerate(entity_ids(tx))
        if entity is not None
    ]
