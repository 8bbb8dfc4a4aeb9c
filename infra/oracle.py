"""The oracle of the fault tests: what was sent and acknowledged against what the ledger committed.

Six anomalies, by the names of Jepsen's Kafka workload where it has one; "clean" means that all six are 0:

* ``lost``: acknowledged, and neither decided (a label: applied) nor dead-lettered;
* ``duplicate``: committed rows of one decision, applied label or dead letter beyond the first;
* ``phantom``: committed, and never sent;
* ``gap``: numbers of an entity's log that do not continue 1, 2, 3 …;
* ``diff``: decisions whose features are not bit for bit those of the pure kernel in the recorded order, or whose score is more
  than 1e-12 from that of the recorded model and rules over those features, or whose outcome is another;
* ``inversion``: decisions of a card that stand before an earlier one in their partition, or overtook an earlier send.

It judges one tenant that had no traffic before ``start``: entity logs are a tenant's own, so everything is then countable.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from confluent_kafka import TopicPartition
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from fraud.rules import RuleSet
from generator.acks import Ack
from infra.plan import Plan
from infra.scoring_job import models_dir
from serving import ledger
from serving.codec import Codec
from serving.model import Model, load_model
from serving.records import Decision, LabelApplied
from serving.replay import recorded_extra
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from serving.scoring import Scorer, ScoringInput
from training import ledger_history
from training.parity import bits_differ

__all__ = ["ANOMALIES", "LEDGER_TOPICS", "CommitTail", "Evidence", "Judge", "Row", "Verdict", "aborted_rows", "committed_rows", "judge_of"]

ANOMALIES = ("lost", "duplicate", "phantom", "gap", "diff", "inversion")
LEDGER_TOPICS = (*ledger_history.LEDGER_TOPICS, ledger.DEAD_LETTERS)
SCORE_TOLERANCE = 1e-12
_BATCH = 2_000
_EXAMPLES = 5

Row = tuple[str, int, bytes | None]  # topic, partition, value; each partition in order


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the sender knows: identities (see ``generator.acks``) handed to the producer, and the acknowledgements."""

    tenant: str
    sent: Collection[str]
    acks: Sequence[Ack]


@dataclass(slots=True)
class Verdict:
    """Counts of each anomaly, and of what was looked at; ``examples`` names the first few of each."""

    sent: int = 0
    acked: int = 0
    decided: int = 0
    labels: int = 0
    dead_letters: int = 0
    late: int = 0
    lost: int = 0
    duplicate: int = 0
    phantom: int = 0
    gap: int = 0
    diff: int = 0
    inversion: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """All six are 0."""
        return not any(self.anomalies.values())

    @property
    def anomalies(self) -> dict[str, int]:
        """The six by name."""
        return {name: int(getattr(self, name)) for name in ANOMALIES}

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
        return asdict(self)

    def note(self, anomaly: str, what: str, count: int = 1) -> None:
        """Count an anomaly and keep the first few as examples."""
        setattr(self, anomaly, getattr(self, anomaly) + count)
        named = self.examples.setdefault(anomaly, [])
        if len(named) < _EXAMPLES:
            named.append(what)


@dataclass(slots=True)
class _Seen:
    """What one reading of the ledger found."""

    decisions: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    letters: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    newest: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)  # (partition, card) -> card number, send number


class Judge:
    """Compares evidence with a ledger.

    Args:
        codec: decodes the ledger.
        rule_sets: rule sets by hash.
        open_model: a model by its SHA-256.
    """

    def __init__(self, codec: Codec, rule_sets: Mapping[str, RuleSet], open_model: Callable[[str], Model]) -> None:
        self._codec = codec
        self._rule_sets = rule_sets
        self._open_model = open_model
        self._models: dict[str, Model] = {}

    def judge(self, evidence: Evidence, read: Callable[[], Iterable[Row]]) -> Verdict:
        """The verdict; ``read`` yields the committed rows and is called twice, as a long ledger does not fit into memory twice."""
        acked_at = {(ack.topic, ack.partition, ack.offset) for ack in evidence.acks if ack.offset >= 0}
        numbers: dict[str, int] = {}
        for ack in evidence.acks:
            numbers[ack.identity] = min(ack.number, numbers.get(ack.identity, ack.number))
        verdict = Verdict(sent=len(evidence.sent), acked=len(evidence.acks))
        seen = _Seen()
        history = ledger_history.load(self._of_tenant(evidence.tenant, read(), numbers, seen, verdict), self._codec)
        self._count(evidence, seen, acked_at, verdict)
        for kind, count in history.breaks().items():
            verdict.note("gap", f"{count} of {kind.name.lower()} logs", count)
        self._count_differences(evidence.tenant, read(), history, history.recompute().features, verdict)
        return verdict

    def _of_tenant(
        self, tenant: str, rows: Iterable[Row], numbers: Mapping[str, int], seen: _Seen, verdict: Verdict
    ) -> Iterator[tuple[str, bytes | None]]:
        for topic, partition, value in rows:
            if topic == ledger.DEAD_LETTERS:
                letter = self._codec.decode_dead_letter(value)
                seen.letters[letter.origin_topic, letter.origin_partition, letter.origin_offset] += 1
                continue
            if topic == ledger.DECISIONS:
                decision = self._codec.decode_decision(value)
                if decision.tenant_id != tenant:
                    continue
                seen.decisions[decision.decision_id] += 1
                verdict.late += decision.late_event
                if seen.decisions[decision.decision_id] == 1:
                    _check_order(decision, partition, numbers, seen, verdict)
            elif topic == ledger.ERASURES_APPLIED:
                if self._codec.decode_erasure_applied(value).tenant_id != tenant:
                    continue
            else:
                applied = self._codec.decode_label_applied(value)
                if applied.tenant_id != tenant:
                    continue
                seen.labels[_label_identity(applied)] += 1
            yield topic, value

    @staticmethod
    def _count(evidence: Evidence, seen: _Seen, acked_at: set[tuple[str, int, int]], verdict: Verdict) -> None:
        verdict.decided, verdict.labels, verdict.dead_letters = len(seen.decisions), len(seen.labels), len(seen.letters)
        # bytes that are no record have no identity and are told apart by their place
        distinct = {ack.identity or (ack.topic, ack.partition, ack.offset): ack for ack in evidence.acks}
        for ack in distinct.values():
            is_there = ack.identity in seen.decisions or ack.identity in seen.labels
            if not is_there and (ack.topic, ack.partition, ack.offset) not in seen.letters:
                verdict.note("lost", f"{ack.identity} at {ack.topic}/{ack.partition}/{ack.offset}")
        _count_repeats(seen, verdict)
        _count_phantoms(evidence, seen, acked_at, verdict)

    def _count_differences(
        self, tenant: str, rows: Iterable[Row], history: ledger_history.LedgerHistory, features: NDArray[np.float64], verdict: Verdict
    ) -> None:
        pairs = history.frame.select("tenant_id", "transaction_id").iter_rows()
        row_of = {decision_id(*pair): row for row, pair in enumerate(pairs)}
        ours = ((topic, value) for topic, _, value in rows if topic == ledger.DECISIONS)
        decisions = (decision for decision in (self._codec.decode_decision(value) for _, value in ours) if decision.tenant_id == tenant)
        while batch := list(islice(decisions, _BATCH)):
            # of a decision that is there twice the first row counts, as in the history
            placed = ((decision, row_of.pop(decision.decision_id, None)) for decision in batch)
            first, rows_of = [], []
            for decision, row in placed:
                if row is not None:
                    first.append(decision)
                    rows_of.append(row)
            by_versions: dict[tuple[str | None, str | None], list[int]] = {}
            for i, decision in enumerate(first):
                by_versions.setdefault((decision.model_sha256, decision.rule_set_hash), []).append(i)
            for versions, chosen in by_versions.items():
                self._compare([first[i] for i in chosen], features[[rows_of[i] for i in chosen]], versions, verdict)

    def _compare(
        self, decisions: list[Decision], features: NDArray[np.float64], versions: tuple[str | None, str | None], verdict: Verdict
    ) -> None:
        model_sha256, rule_set_hash = versions
        if rule_set_hash is not None and rule_set_hash not in self._rule_sets:
            verdict.note("diff", f"{decisions[0].decision_id}: nobody knows its rule set {rule_set_hash}", len(decisions))
            return
        recorded = np.array([decision.features for decision in decisions])
        wrong = bits_differ(features, recorded).any(axis=1)
        rules = None if rule_set_hash is None else self._rule_sets[rule_set_hash]
        again = Scorer("stream", decisions[0].code_version).score(
            ScoringInput(
                transactions=[decision.transaction for decision in decisions],
                features=features,
                late=[decision.late_event for decision in decisions],
                entities=[decision.entities for decision in decisions],
                blacklisted=[decision.blacklisted for decision in decisions],
                extra=recorded_extra(decisions, rules),
            ),
            rules,
            None if model_sha256 is None else self._model(model_sha256),
        )
        for decision, ours, features_differ in zip(decisions, again, wrong.tolist(), strict=True):
            if decision.catalogue_version != CATALOGUE.version:
                verdict.note("diff", f"{decision.decision_id}: catalogue {decision.catalogue_version}")
            elif features_differ:
                verdict.note("diff", f"{decision.decision_id}: features")
            elif not abs(decision.score - ours.score) <= SCORE_TOLERANCE:
                verdict.note("diff", f"{decision.decision_id}: score {decision.score}, again {ours.score}")
            elif (decision.outcome, decision.floor, decision.degraded) != (ours.outcome, ours.floor, ours.degraded):
                verdict.note("diff", f"{decision.decision_id}: {decision.outcome}, again {ours.outcome}")

    def _model(self, sha256: str) -> Model:
        if sha256 not in self._models:
            self._models[sha256] = self._open_model(sha256)
        return self._models[sha256]


def _count_repeats(seen: _Seen, verdict: Verdict) -> None:
    for found in (seen.decisions, seen.labels, seen.letters):
        for name, count in found.items():
            if count > 1:
                verdict.note("duplicate", f"{count} rows of {name}", count - 1)


def _count_phantoms(evidence: Evidence, seen: _Seen, acked_at: set[tuple[str, int, int]], verdict: Verdict) -> None:
    sent = set(evidence.sent)
    for identity in (*seen.decisions, *seen.labels):
        if identity not in sent:
            verdict.note("phantom", identity)
    if sent <= {ack.identity for ack in evidence.acks}:
        # only where every send was acknowledged does the log of acknowledgements name every place that we wrote to
        for place in seen.letters:
            if place not in acked_at:
                verdict.note("phantom", f"dead letter of {place}")


def _label_identity(applied: LabelApplied) -> str:
    """As :func:`generator.acks.identity_of` names the label that was sent."""
    return f"label {applied.tenant_id} {applied.transaction_id} {applied.label_time_ms}"


def _check_order(decision: Decision, partition: int, numbers: Mapping[str, int], seen: _Seen, verdict: Verdict) -> None:
    card = next(position for position in decision.entities if position.kind == "card")
    seq_before, number_before = seen.newest.get((partition, card.key), (0, -1))
    number = numbers.get(decision.decision_id, number_before)
    if card.seq <= seq_before:
        verdict.note("inversion", f"{decision.decision_id}: number {card.seq} of its card after {seq_before}")
    elif number < number_before:
        verdict.note("inversion", f"{decision.decision_id}: send {number} decided after send {number_before}")
    seen.newest[partition, card.key] = max(card.seq, seq_before), max(number, number_before)


def judge_of(plan: Plan, codec: Codec) -> Judge:
    """A judge with every rule set and model that this stack may have used."""
    shipped = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    rule_sets = {shipped.hash: shipped}
    for message in ledger.read_to_end(plan.addresses.bootstrap_servers, ("rules",)):
        record = codec.decode_rule(message.value())
        for body in (record.body, record.challenger_body):
            if body is not None:
                rules = RuleSet.from_json(body, CATALOGUE.index)
                rule_sets[rules.hash] = rules
    folder: Path = models_dir(plan.layout)
    return Judge(codec, rule_sets, lambda sha256: load_model(folder, sha256))


def committed_rows(bootstrap: str, start: Sequence[TopicPartition], *, committed: bool = True) -> Iterator[Row]:
    """The rows that a reader of committed records sees from ``start`` on; with ``committed`` false also the aborted ones."""
    for message in ledger.read_to_end(bootstrap, (), start, committed=committed):
        yield str(message.topic()), int(message.partition() or 0), message.value()


def aborted_rows(bootstrap: str, start: Sequence[TopicPartition]) -> int:
    """Rows of aborted (or still open) transactions since ``start``: what a fault took back."""
    everything = sum(1 for _ in committed_rows(bootstrap, start, committed=False))
    return everything - sum(1 for _ in committed_rows(bootstrap, start))


class CommitTail:
    """Follows the ledger as a reader of committed records and notes when what was sent became visible.

    Args:
        bootstrap: Kafka.
        codec: of its own, as this runs on a thread of its own.
        start: where to begin.
        acked_ms: identity to wall clock of its acknowledgement, still growing.
    """

    def __init__(self, bootstrap: str, codec: Codec, start: Sequence[TopicPartition], acked_ms: Mapping[str, float]) -> None:
        self._codec = codec
        self._acked_ms = acked_ms
        self._reader = ledger.consumer(bootstrap)
        self._reader.assign([TopicPartition(place.topic, place.partition, place.offset) for place in start])
        self._stopping = threading.Event()
        # (newest acknowledgement that is decided, when that became visible), both wall clock in ms and rising
        self._progress: list[tuple[float, float]] = []
        self.visible: set[str] = set()
        self.refused: set[tuple[str, int, int]] = set()
        self.changed_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="commit-tail", daemon=True)
        self._thread.start()

    def visible_after_s(self, moment_ms: float) -> float | None:
        """Seconds from ``moment_ms`` until a decision of something acknowledged later was visible; None while there is none."""
        at = bisect_left(self._progress, (moment_ms, 0.0))
        return (self._progress[at][1] - moment_ms) / 1000.0 if at < len(self._progress) else None

    def holds(self, acks: Iterable[Ack]) -> bool:
        """Whether everything acknowledged is visible."""
        return all(ack.identity in self.visible or (ack.topic, ack.partition, ack.offset) in self.refused for ack in acks)

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(10.0)
        self._reader.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for message in self._reader.consume(1_000, timeout=0.1):
                if message.error() is None:
                    self._take(str(message.topic()), message.value())

    def _take(self, topic: str, value: bytes | None) -> None:
        now_ms = time.time() * 1000.0
        if topic == ledger.DEAD_LETTERS:
            letter = self._codec.decode_dead_letter(value)
            self.refused.add((letter.origin_topic, letter.origin_partition, letter.origin_offset))
        elif topic == ledger.LABELS_APPLIED:
            self.visible.add(_label_identity(self._codec.decode_label_applied(value)))
        elif topic == ledger.DECISIONS:
            identity = self._codec.decode_decision(value).decision_id
            self.visible.add(identity)
            acked_ms = self._acked_ms.get(identity, 0.0)
            if not self._progress or acked_ms > self._progress[-1][0]:
                self._progress.append((acked_ms, now_ms))
        self.changed_s = time.monotonic()
