"""A ledger that the operators' cores have written, with sets of rules that came into force on the way, for tests of the backtest."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from analytics.history import DECISION_FIELDS
from flink_jobs.cores import Record
from fraud.catalogue import CATALOGUE
from fraud.events import Label, Transaction
from fraud.rules import RuleSet
from serving import ledger
from serving.model import Model, load_model
from serving.model_files import Calibration, Manifest, publish
from serving.records import Decision, Erasure, RuleSetVersion
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from tests.unit.test_model import train_text
from training.ledger_history import LedgerHistory, load

from .pipeline import Pipeline, codec, record, transaction

START_MS = 1_700_000_000_000
SHIPPED = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
NOW_MS = 2_000_000_000_000
_MODEL_FEATURES = tuple(CATALOGUE.names[::9])


def rule(
    rule_id: str, when: str, *, score: float = 0.5, floor: str | None = None, state: str = "enabled", message: str = "seen"
) -> dict[str, object]:
    """A rule in plain structures."""
    return {
        "id": rule_id,
        "name": rule_id,
        "when": when,
        "score": score,
        "floor": floor,
        "reason_code": rule_id.upper(),
        "message": message,
        "state": state,
    }


def with_rules(base: RuleSet, *more: dict[str, object]) -> RuleSet:
    return RuleSet.parse({"rules": [*(one.to_plain() for one in base.rules), *more]}, CATALOGUE.index)


VELOCITY = rule(
    "velocity_37m",
    "card_distinct_merchant_37m >= 3 and amount_usd > 5",
    floor="CHALLENGE",
    message="{card_distinct_merchant_37m} merchants in 37 minutes",
)


def traffic(seed: int, count: int) -> list[Transaction | Label]:
    """Payments in bursts, some out of order, and labels between them."""
    rng, clock_ms, found = random.Random(seed), START_MS, list[Transaction | Label]()
    card = 0
    for number in range(count):
        card = card if rng.random() < 0.6 else rng.randrange(14)
        clock_ms += rng.choice([5_000, 60_000, 400_000])
        tx = transaction(rng, number, clock_ms - rng.choice([0, 0, 0, rng.randrange(0, 1_800_000)]))
        tx.card_id, tx.device_id, tx.country = f"card{card}", rng.choice([None, f"d{card}"]), rng.choice([None, "AT", "AT", "AT", "US"])
        tx.amount_minor = rng.choice([rng.randrange(1, 3_000), rng.randrange(1, 60_000), tx.amount_minor])
        if tx.user_id is not None:
            tx.user_id = f"u{card % 5}"
        if tx.lat is not None and rng.random() < 0.8:
            tx.lat = 48.2
        found.append(tx)
        if rng.random() < 0.15:
            ids = (tx.transaction_id, tx.tenant_id, tx.card_id, tx.merchant_id)
            found.append(Label(*ids, tx.event_time_ms, clock_ms, rng.random() < 0.6, tx.user_id))
    return found


def sent(event: Transaction | Label | Erasure, number: int, shards: int) -> tuple[int, Record]:
    """An event as a record on its topic, and the shard that it comes to."""
    wire = codec()
    if isinstance(event, Erasure):
        source, key, value = ledger.ERASURES, event.subject_id, wire.encode_erasure(event)
    elif isinstance(event, Label):
        source, key, value = ledger.LABELS, event.card_id, wire.encode_label(event)
    else:
        source, key, value = ledger.TRANSACTIONS, event.card_id, wire.encode_transaction(event)
    return zlib.crc32(key.encode()) % shards, record(value, key, source=source, offset=number)


def release(rules: RuleSet, version: int) -> Record:
    """A rule set on its topic."""
    value = codec().encode_rule(RuleSetVersion(version, rules.hash, rules.to_json(), "ana", START_MS))
    return record(value, "default", source=ledger.RULES)


@dataclass
class Recorded:
    """What the ledger holds, and what was in force."""

    records: list[tuple[str, bytes | None]]
    rule_sets: Mapping[str, RuleSet]
    models: Path
    changed: dict[int, bytes] = field(default_factory=dict)

    def rules_of(self, digest: str) -> RuleSet:
        if digest not in self.rule_sets:
            raise ValueError("never in force here")
        return self.rule_sets[digest]

    @cache  # noqa: B019 - a world lives as long as its module
    def model_of(self, sha256: str) -> Model:
        return load_model(self.models, sha256)

    def history(self) -> LedgerHistory:
        return load(self.records, codec(), DECISION_FIELDS)

    def decisions(self) -> list[Decision]:
        wire = codec()
        return [wire.decode_decision(value) for topic, value in self.records if topic == ledger.DECISIONS]

    def with_altered(self, decision_id: str, **changes: object) -> Recorded:
        """The same ledger with one record changed."""
        wire = codec()
        records: list[tuple[str, bytes | None]] = []
        for topic, value in self.records:
            if topic == ledger.DECISIONS and (decision := wire.decode_decision(value)).decision_id == decision_id:
                records.append((topic, wire.encode_decision(replace(decision, **changes))))  # type: ignore[arg-type]
            else:
                records.append((topic, value))
        return Recorded(records, self.rule_sets, self.models)

    __hash__ = object.__hash__


def publish_model(folder: Path) -> str:
    manifest = Manifest(feature_names=_MODEL_FEATURES, catalogue_version=CATALOGUE.version, calibration=Calibration(4.0, -5.5))
    return publish(folder, train_text(1, _MODEL_FEATURES), manifest)


def play(
    events: Sequence[Transaction | Label | Erasure], releases: Sequence[RuleSet], folder: Path, *, seed: int = 0, shards: int = 3
) -> Recorded:
    """Send events through the operators; each release comes into force after another part of them, on every shard at its own moment."""
    rng = random.Random(seed)
    pipeline = Pipeline(shards=shards, seed=seed, now_ms=NOW_MS, rules=SHIPPED.to_json(), models=folder, model=publish_model(folder))
    rows = []
    due = {round(len(events) * (i + 1) / (len(releases) + 1)): rules for i, rules in enumerate(releases)}
    waiting: list[tuple[int, int, RuleSet]] = []
    version = 0
    for number, event in enumerate(events):
        if number in due:
            version += 1
            waiting += [(number + rng.randrange(9), shard, due[number]) for shard in range(shards)]
        for one in [one for one in waiting if one[0] <= number]:
            pipeline.send(one[1], [release(one[2], version)])
            waiting.remove(one)
        home, one_record = sent(event, number, shards)
        pipeline.send(home, [one_record])
        rows += pipeline.drain(rng.randrange(0, 6))
        if rng.random() < 0.02:
            rows += pipeline.checkpoint()
            pipeline.crash()  # every operator starts again from its state
    rows += pipeline.drain()
    return Recorded([(row.topic, row.value) for row in rows], {rules.hash: rules for rules in (SHIPPED, *releases)}, folder)


def play_promoted(events: Sequence[Transaction | Label], rules: RuleSet, folder: Path, *, seed: int = 1) -> Recorded:
    """The same events with a rule set in force from the first one on."""
    pipeline = Pipeline(shards=3, seed=seed, now_ms=NOW_MS, rules=SHIPPED.to_json(), models=folder, model=publish_model(folder))
    for shard in range(3):
        pipeline.send(shard, [release(rules, 1)])
    rows = []
    for number, event in enumerate(events):
        shard, one_record = sent(event, number, 3)
        pipeline.send(shard, [one_record])
        rows += pipeline.drain()  # one at a time, so that every log has the order in which the events come
    return Recorded([(row.topic, row.value) for row in rows], {rules.hash: rules}, folder)
