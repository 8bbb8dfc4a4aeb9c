"""Third operator: gathers the parts of a batch, scores it, and emits decisions, alerts, applied labels and erasures, and dead letters.

Parts of a batch arrive from several shards; a batch leaves when it is whole and every earlier batch of its home shard has left,
so decisions of one card keep the order of its events. An event that the API has answered is not decided again: its decision
enters the ledger as it was given, and how far the stream's own score is from it is the skew. What is being gathered is not part
of the state: ``ingest`` emits the parts of a batch between two checkpoint barriers, and with aligned checkpoints each operator
has taken in all that was sent before a barrier when it takes its snapshot, so no batch is ever half here at a checkpoint. Every
attempt of the job numbers its batches from 1. Rule sets and model choices, and what is tried beside them, come through ``ingest``
with the number of the batch from which they are in force, and are part of this operator's state, so a restore scores with what was in
force at the checkpoint. What is tried is asked when the batch's decisions are encoded, and its answers leave with them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from flink_jobs.cores import ByteMap, OutRow
from flink_jobs.handover import Handover
from flink_jobs.packing import ControlPart, FeaturePart, HomePart, Item, ItemKind, peek_header, unpack_home
from fraud.catalogue import Catalogue
from fraud.decide import Outcome
from fraud.events import KINDS, Kind, Label, Transaction, entities_of, entity_key
from fraud.extra import extra_columns
from serving import ledger
from serving.challengers import Versions
from serving.codec import Codec
from serving.logs import DecisionLog
from serving.records import Decision, EntityPosition, Erasure, ErasureApplied, LabelApplied
from serving.rollout import score_by_card
from serving.scoring import Scorer, ScoringInput, alert_of
from serving.shadow import ShadowLane
from serving.skew import had_the_same
from serving.stream_metrics import StreamMetrics
from serving.versions import ControlledVersions

__all__ = ["Infer"]

MAPS = ("control",)

_log = structlog.get_logger()


@dataclass(slots=True)
class _Gathering:
    """Parts of one shard's batches that are not whole yet, by batch and part index, and the number of the next one to leave."""

    next_batch: int = 1
    parts: dict[int, dict[int, bytes]] = field(default_factory=dict)
    controls: deque[ControlPart] = field(default_factory=deque)


class Infer:
    """Core of the third operator; one a subtask.

    Args:
        codec: decodes bodies, encodes outputs.
        scorer: model, rules and policy applied to a batch.
        versions: rule sets and models in force, and what is tried.
        catalogue: layout of the vector.
        handover: from an ``ingest`` of the same process.
        shadow: asks what is tried.
        blacklisted: names of the lists that each of some transactions is on.
        now_ms: wall clock, for how long a decision took; no decision depends on it.
        metrics: what was decided.
    """

    def __init__(
        self,
        codec: Codec,
        scorer: Scorer,
        versions: ControlledVersions,
        catalogue: Catalogue,
        handover: Handover,
        *,
        shadow: ShadowLane,
        blacklisted: Callable[[Sequence[Transaction]], Sequence[Sequence[str]]],
        now_ms: Callable[[], int],
        metrics: StreamMetrics,
    ) -> None:
        self._codec = codec
        self._scorer = scorer
        self._versions = versions
        self._shadow = shadow
        self._columns = catalogue.slices
        self._size = catalogue.size
        self._home_width = catalogue.slices[Kind.CARD].stop
        self._widths = [columns.stop - columns.start for columns in catalogue.slices]
        self._handover = handover
        handover.join(self)
        self._blacklisted = blacklisted
        self._now_ms = now_ms
        self._metrics = metrics
        self._log = DecisionLog()
        self._gathering: dict[int, _Gathering] = {}
        self._rollout_told = False

    def close(self) -> None:
        """Take nothing over any more."""
        self._handover.leave(self)

    def process(self, shard: int, payload: bytes, maps: Mapping[str, ByteMap]) -> list[OutRow]:
        """Take in one part; returns the rows of every batch that it makes ready to leave."""
        part_type, header = peek_header(payload)
        gathering = self._gathering.setdefault(shard, _Gathering())
        if header.batch < gathering.next_batch:
            raise RuntimeError(f"batch {header.batch} of shard {shard} has left already: operators of two attempts of the job meet")
        if part_type == b"C":
            gathering.controls.append(ControlPart.unpack(payload))
        else:
            gathering.parts.setdefault(header.batch, {})[header.index] = payload
        rows: list[OutRow] = []
        self._adopt_due(shard, gathering, maps)
        while self._is_whole(gathering):
            rows += self._emit(shard, gathering.parts.pop(gathering.next_batch), maps["control"])
            gathering.next_batch += 1
            self._adopt_due(shard, gathering, maps)
        return rows

    def _adopt_due(self, shard: int, gathering: _Gathering, maps: Mapping[str, ByteMap]) -> None:
        while gathering.controls and gathering.controls[0].header.batch <= gathering.next_batch:
            due = gathering.controls.popleft()
            self.control(shard, due.kind, due.body, maps)

    def control(self, shard: int, kind: str, payload: bytes | None, maps: Mapping[str, ByteMap]) -> None:
        """Put a rule set or a model in force for a shard, and try what the record tries.

        One that cannot be used is refused and everything stays; a challenger that cannot be used is refused and none is tried.
        """
        adopted = self._versions.adopt(shard, kind, payload)
        if adopted.is_refused:
            self._metrics.refused(kind)
        if adopted.kept:
            self._rollout_told = False
            maps["control"].put_all(adopted.kept)

    @staticmethod
    def _is_whole(gathering: _Gathering) -> bool:
        parts = gathering.parts.get(gathering.next_batch)
        if not parts:
            return False
        _, header = peek_header(next(iter(parts.values())))
        return len(parts) == header.parts

    def _emit(self, shard: int, parts: Mapping[int, bytes], control: ByteMap) -> list[OutRow]:
        packed, own = unpack_home(parts[0])
        _, header = peek_header(packed)
        items = self._handover.take(shard, header.batch, packed) or HomePart.unpack(packed).items
        answers = [FeaturePart.unpack(parts[index]) for index in sorted(parts) if index != 0]
        if own:
            answers.append(FeaturePart.unpack(own))
        seqs = np.full((len(items), len(Kind)), -1, dtype=np.int64)
        seqs[:, Kind.CARD] = [item.card_seq for item in items]
        versions = self._versions.of(shard, control.get)
        names = versions.extra
        extra = self._take_extra(items, answers, names) if names else None
        matrix = self._assemble(items, answers, seqs)
        rows = self._decide(items, matrix, names, extra, seqs, versions)
        for position, item in enumerate(items):
            if item.kind == ItemKind.LABEL:
                rows.append(self._label_row(self._codec.decode_label(item.body), seqs[position]))
            elif item.kind == ItemKind.ERASURE:
                rows.append(self._erasure_row(self._codec.decode_erasure(item.body), seqs[position]))
            elif item.kind == ItemKind.DEAD_LETTER:
                rows.append(OutRow(ledger.DEAD_LETTERS, None, item.body))
        return rows

    def _assemble(self, items: list[Item], answers: list[FeaturePart], seqs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Feature vectors of the batch's items, ``float64[items, F]``; writes the entities' numbers into ``seqs``."""
        matrix = np.full((len(items), self._size), np.nan)
        for position, item in enumerate(items):
            if item.features is not None:
                matrix[position, : self._home_width] = item.features[: self._home_width]
        for answer in answers:
            at = 0
            for (position, kind, seq), width in zip(answer.table.tolist(), answer.widths.tolist(), strict=True):
                seqs[position, kind] = seq
                if width:
                    matrix[position, self._columns[kind]] = answer.values[at : at + self._widths[kind]]
                    at += width
        return matrix

    def _take_extra(self, items: list[Item], answers: list[FeaturePart], names: tuple[str, ...]) -> NDArray[np.float64]:
        """The features beyond the catalogue of the batch's items, ``float64[items, E]``: they stand behind each kind's own."""
        columns = extra_columns(names)
        matrix = np.full((len(items), len(names)), np.nan)
        for position, item in enumerate(items):
            if item.features is not None:
                matrix[position, columns[Kind.CARD]] = item.features[self._home_width :]
        for answer in answers:
            at = 0
            for (position, kind, _), width in zip(answer.table.tolist(), answer.widths.tolist(), strict=True):
                if width:
                    matrix[position, columns[kind]] = answer.values[at + self._widths[kind] : at + width]
                    at += width
        return matrix

    def _decide(
        self,
        items: list[Item],
        matrix: NDArray[np.float64],
        extra_names: tuple[str, ...],
        extra: NDArray[np.float64] | None,
        seqs: NDArray[np.int64],
        versions: Versions,
    ) -> list[OutRow]:
        positions = [position for position, item in enumerate(items) if item.kind == ItemKind.TRANSACTION]
        if not positions:
            return []
        transactions = [items[position].transaction or self._codec.decode_transaction(items[position].body) for position in positions]
        batch = ScoringInput(
            transactions=transactions,
            features=matrix[positions],
            late=[items[position].late for position in positions],
            entities=[_positions(tx, seqs[position]) for tx, position in zip(transactions, positions, strict=True)],
            blacklisted=self._blacklisted(transactions),
            extra=None if extra is None else extra[positions],
            extra_names=extra_names,
        )
        began_s = time.perf_counter()
        decisions = score_by_card(
            batch,
            versions,
            live=lambda some: self._scorer.score(some, versions.rules, versions.model),
            tried=self._scorer.score,
            on_failed=self._rollout_failed,
        )
        scoring_s = time.perf_counter() - began_s
        rows: list[OutRow] = []
        own, append_ms = [], []
        for i, position in enumerate(positions):
            item, decision, answered = items[position], decisions[i], transactions[i].decided
            if answered is None:
                own.append(decision)
                append_ms.append(item.timestamp_ms)
                rows += self._rows_of(decision, item.body)
            else:
                decisions[i] = self._confirmed(decision, answered)
                rows += self._rows_of(decisions[i], None)
        if own:
            self._measure(own, append_ms, scoring_s)
        return rows + self._shadow_rows(batch, decisions, versions)

    def _shadow_rows(self, batch: ScoringInput, decisions: list[Decision], versions: Versions) -> list[OutRow]:
        return [
            OutRow(ledger.SHADOWS, shadow.decision_id.encode(), self._codec.encode_shadow_decision(shadow))
            for shadow in self._shadow.ask(batch, decisions, versions)
        ]

    def _rollout_failed(self, events: int, error: Exception) -> None:
        """Every batch tries again, since a breaker's clock would make decisions depend on time; the first failure tells why."""
        self._metrics.rollout_failed(events)
        if not self._rollout_told:
            self._rollout_told = True
            _log.error("rollout_failed", exc_info=error)

    def _confirmed(self, ours: Decision, answered: bytes) -> Decision:
        """The API's decision of an event, with where its logs stand after it and the score that the stream came to."""
        decision = self._codec.decode_decision(answered)
        self._metrics.confirmed(abs(decision.score - ours.score), comparable=had_the_same(decision, ours))
        return replace(decision, transaction=ours.transaction, entities=ours.entities, stream_score=ours.score)

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

    def _rows_of(self, decision: Decision, transaction: bytes | None) -> list[OutRow]:
        key = decision.transaction.card_id.encode()
        value = self._codec.encode_decision(decision, transaction)
        rows = [OutRow(ledger.DECISIONS, key, value)]
        alert = alert_of(decision)
        if alert is not None:
            self._metrics.alerts(alert.reason, alert.severity)
            rows.append(OutRow(ledger.ALERTS, key, self._codec.encode_alert(alert)))
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
        return OutRow(ledger.LABELS_APPLIED, label.card_id.encode(), self._codec.encode_label_applied(applied))

    def _erasure_row(self, erasure: Erasure, seqs: NDArray[np.int64]) -> OutRow:
        key, seq = entity_key(erasure.tenant_id, erasure.subject_id), int(seqs[Kind[erasure.kind.upper()]])
        self._metrics.erased(erasure.kind)
        applied = ErasureApplied(erasure.tenant_id, erasure.kind, key, seq, erasure.requested_ms)
        return OutRow(ledger.ERASURES_APPLIED, erasure.subject_id.encode(), self._codec.encode_erasure_applied(applied))


def _positions(tx: Transaction, seqs: NDArray[np.int64]) -> list[EntityPosition]:
    """Where each log that the transaction entered stood after it."""
    return [EntityPosition(KINDS[kind], key, int(seqs[kind])) for kind, key in entities_of(tx)]
