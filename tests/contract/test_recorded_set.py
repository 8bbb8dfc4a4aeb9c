"""A training set out of recorded decisions, held against a reading of the ledger record by record."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from serving import ledger
from training.recorded_set import cut

from .backtest_world import SHIPPED, play, traffic, with_rules
from .pipeline import codec

MATURITY_MS = 3_600_000


def test_a_set_has_the_features_as_served_and_what_labels_or_time_say(tmp_path: Path) -> None:
    world = play(traffic(33, 200), [with_rules(SHIPPED)], tmp_path)
    other_catalogue = world.decisions()[7]
    world = world.with_altered(other_catalogue.decision_id, catalogue_version="0" * 8)
    applied = [codec().decode_label_applied(value) for topic, value in world.records if topic == ledger.LABELS_APPLIED]
    label_of = {(one.tenant_id, one.transaction_id): one.is_fraud for one in sorted(applied, key=lambda one: one.label_time_ms)}
    mature_before_ms = max(one.transaction.event_time_ms for one in world.decisions()) - MATURITY_MS
    expected = []
    for one in world.decisions():
        tx = one.transaction
        is_fraud = label_of.get((tx.tenant_id, tx.transaction_id))
        if is_fraud is None and one.outcome == "ALLOW" and tx.event_time_ms <= mature_before_ms:
            is_fraud = False
        if is_fraud is not None and one.decision_id != other_catalogue.decision_id:
            expected.append((tx.event_time_ms, tx.tenant_id, tx.transaction_id, is_fraud, one.features))
    expected.sort(key=lambda row: row[:3])

    found = cut(world.history(), MATURITY_MS)
    assert len(expected) > 30
    assert found.times_ms.tolist() == [row[0] for row in expected]
    assert found.labels.tolist() == [row[3] for row in expected]
    np.testing.assert_array_equal(found.features, np.array([row[4] for row in expected]))
    assert found.not_comparable == 1
    assert len(expected) + found.unknown <= 200 <= len(expected) + found.unknown + 1


def test_nothing_recorded_is_nothing_to_learn_from(tmp_path: Path) -> None:
    found = cut(play([], [], tmp_path).history(), MATURITY_MS)
    assert (found.features.shape[0], found.labels.tolist(), found.unknown) == (0, [], 0)
