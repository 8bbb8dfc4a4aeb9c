"""The ledger as arrays equals the ledger decoded record by record and turned into rows one at a time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from fraud.catalogue import CATALOGUE
from fraud.errors import InvalidEvent
from fraud.events import KINDS, hash64
from fraud.vector import event_row
from serving import ledger
from serving.codec import Codec
from serving.records import Contribution, Decision, EntityPosition, FiredRule, LabelApplied
from serving.schemas import SCHEMAS
from tests.wire_samples import decision, transaction
from training import ledger_history
from training.ledger_history import LedgerHistory
from training.parity import bits_differ

CODEC = Codec({name: number for number, name in enumerate(SCHEMAS, start=1)})
NULLABLE = (
    "user_id",
    "device_id",
    "ip_hash",
    "ip_country",
    "ip_lat",
    "channel",
    "merchant_mcc",
    "merchant_country",
    "lat",
    "lon",
    "country",
)
NULLABLE += ("card_country", "card_age_days", "billing_lat", "billing_lon")


def _decision(rng: random.Random, number: int) -> Decision:
    changes: dict[str, Any] = dict.fromkeys(rng.sample(NULLABLE, rng.randrange(len(NULLABLE))))
    tx = transaction(
        transaction_id=f"t{number}é",
        tenant_id=rng.choice(["default", "größe"]),
        card_id=f"card{rng.randrange(9)}",
        amount_minor=rng.randrange(10**9),
        currency=rng.choice(["USD", "EUR", "JPY", "KWD"]),
        declined=rng.random() < 0.3,
        **({"channel": rng.choice(["pos", "online"]), "lat": rng.choice([0.0, 48.2]), "lon": 0.0} | changes),
    )
    own = rng.random() < 0.8
    return decision(
        decision_id=f"dec-{number}",
        tenant_id=tx.tenant_id,
        transaction_id=tx.transaction_id,
        event_time_ms=tx.event_time_ms,
        outcome=rng.choice(["ALLOW", "CHALLENGE", "DENY"]),
        catalogue_version=CATALOGUE.version if own else "another",
        features=np.array([rng.choice([rng.random(), np.nan, -0.0]) for _ in range(CATALOGUE.size if own else rng.randrange(200))]),
        entities=[EntityPosition(kind, f"{tx.tenant_id}|x", rng.randrange(1, 2**40)) for kind in rng.sample(KINDS, rng.randrange(6))],
        rules=[FiredRule("burst", "VELOCITY", "high", 0.6, rng.choice([None, "DENY"]), "shadow", "7 über 5")] * rng.randrange(3),
        contributions=rng.choice([None, [], [Contribution(3, 0.5)] * 4]),
        transaction=tx,
    )


def _label(rng: random.Random, number: int) -> LabelApplied:
    entities = [EntityPosition(kind, f"default|{kind}é{number}", rng.randrange(1, 99)) for kind in KINDS[: rng.randrange(4)]]
    return LabelApplied(
        f"t{number}é", rng.choice(["default", "größe"]), rng.random() < 0.5, 5_000 + number, 4_000 + number, "analyst", entities
    )


def _records(seed: int, n: int = 300) -> list[tuple[str, bytes | None]]:
    """Decisions, some of them twice, and labels, and what belongs to neither topic."""
    rng = random.Random(seed)
    found: list[tuple[str, bytes | None]] = []
    for number in range(n):
        found.append((ledger.DECISIONS, CODEC.encode_decision(_decision(rng, number))))
        if rng.random() < 0.2:
            found.append(rng.choice([pair for pair in found if pair[0] == ledger.DECISIONS]))
        if rng.random() < 0.3:
            found.append((ledger.LABELS_APPLIED, CODEC.encode_label_applied(_label(rng, number))))
        if rng.random() < 0.1:
            found.append((ledger.ALERTS, b"not read"))
    return found


def _assert_equals_record_by_record(history: LedgerHistory, records: list[tuple[str, bytes | None]]) -> None:
    decided = [CODEC.decode_decision(value) for topic, value in records if topic == ledger.DECISIONS]
    first = list({d.decision_id: d for d in reversed(decided)}.values())
    by_id = {d.decision_id: d for d in first}
    found = [by_id[name] for name in dict.fromkeys(d.decision_id for d in decided)]
    applied = [CODEC.decode_label_applied(value) for topic, value in records if topic == ledger.LABELS_APPLIED]

    assert history.repeated == len(decided) - len(found)
    assert history.frame.rows() == [
        (d.tenant_id, d.transaction_id, d.transaction.card_id, d.event_time_ms, d.catalogue_version, d.outcome) for d in found
    ]
    assert history.frame.columns == ["tenant_id", "transaction_id", "card_id", "event_time_ms", "catalogue_version", "outcome"]
    assert np.array_equal(history.events, [event_row(d.transaction) for d in found])
    other = np.full(CATALOGUE.size, np.nan)
    recorded = np.array([d.features if d.catalogue_version == CATALOGUE.version else other for d in found])
    assert not bits_differ(history.recorded, recorded).any()
    assert np.array_equal(history.event_seqs, _numbers(found))
    assert np.array_equal(history.label_seqs, _numbers(applied))
    facts = [(a.transaction_time_ms, hash64(f"{a.tenant_id}|{a.transaction_id}"), a.is_fraud) for a in applied]
    assert np.array_equal(history.labels.facts, facts)
    assert np.array_equal(history.labels.time_ms, [a.label_time_ms for a in applied])
    keys = [{position.kind: hash64(position.key) for position in a.entities} for a in applied]
    assert np.array_equal(history.labels.entities, [[of.get(kind, 0) for kind in ("card", "user", "merchant")] for of in keys])
    assert all(array.flags.c_contiguous for array in (history.events, history.labels.facts, history.labels.entities, history.recorded))


def _numbers(records: list[Any]) -> list[list[int]]:
    known = [{position.kind: position.seq for position in record.entities} for record in records]
    return [[of.get(kind, -1) for kind in KINDS] for of in known]


@pytest.mark.parametrize("seed", range(4))
def test_arrays_equal_the_records(seed: int) -> None:
    """Nulls, text beyond ASCII, rules, contributions, duplicates, other versions of the catalogue, labels."""
    records = _records(seed)
    _assert_equals_record_by_record(ledger_history.load(records, CODEC), records)


def test_several_batches_keep_the_order_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads decode them, in any order."""
    monkeypatch.setattr(ledger_history, "_BATCH", 7)
    records = _records(9)
    _assert_equals_record_by_record(ledger_history.load(records, CODEC), records)


def test_an_empty_ledger() -> None:
    history = ledger_history.load([], CODEC)
    assert (history.frame.height, history.events.shape[0], history.labels.facts.shape, history.repeated) == (0, 0, (0, 3), 0)
    history.check_complete()


def test_a_corrupt_record_is_named_as_such() -> None:
    """Wherever it stands."""
    records = _records(1)
    for place in (0, 150, len(records)):
        value = CODEC.encode_decision(decision())[:-3]
        with pytest.raises(InvalidEvent, match="truncated"):
            ledger_history.load([*records[:place], (ledger.DECISIONS, value), *records[place:]], CODEC)


def test_an_entity_of_an_unknown_kind_is_refused() -> None:
    """Its number would otherwise be dropped in silence."""
    strange = CODEC.encode_decision(decision(entities=[EntityPosition("phone", "default|x", 1)]))
    with pytest.raises(InvalidEvent, match="kind"):
        ledger_history.load([(ledger.DECISIONS, strange)], CODEC)
    label = LabelApplied("t", "default", True, 1, 1, "analyst", [EntityPosition("ip", "default|x", 1)])
    with pytest.raises(InvalidEvent, match="holds none"):
        ledger_history.load([(ledger.LABELS_APPLIED, CODEC.encode_label_applied(label))], CODEC)
