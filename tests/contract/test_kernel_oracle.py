"""The kernel against the naive oracle, feature by feature, over logs that are drawn to hurt; and proof that the oracle bites."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.catalogue import CATALOGUE, Catalogue
from fraud.events import Kind, Label, Transaction
from tests.contract.logs import START_MS, Entity, differences, kind_names, logs, random_log, transaction
from tests.contract.naive import DAY_MS, HOUR_MS, LIFETIME_MS, MINUTE_MS, RETENTION_MS, Log, Naive, Value

# Windows that the default catalogue does not have, one a kind of aggregate and on both ends of what a log keeps.
OTHER_FEATURES = (
    "card_distinct_merchant_37m",
    "card_count_tx_1s",
    "card_zscore_amount_13h",
    "card_ratio_median_amount_90m",
    "card_distinct_device_45m",
    "card_risk_delayed7d_14d",
    "user_std_amount_30d",
    "user_count_fraud_3d",
    "user_min_amount_11h",
    "merchant_count_tx_37d",
    "merchant_distinct_user_9d",
    "merchant_count_delayed36d_1d",
    "merchant_risk_delayed1d_21d",
    "merchant_count_fraud_14d",
    "merchant_mean_amount_total",
    "device_count_tx_7d",
    "device_distinct_user_36h",
    "device_ratio_mean_amount_2h",
    "ip_distinct_card_7d",
    "ip_age_seconds",
)


def disagreements(kind: Kind, log: Log, oracle: type[Naive] = Naive, catalogue: Catalogue = CATALOGUE) -> list[str]:
    """Run a log through kernel and oracle; every feature value of every transaction that differs."""
    entity = Entity(kind, catalogue)
    found = []
    for i, entry in enumerate(log):
        out = entity.apply(entry)
        if out is None or isinstance(entry, Label):
            continue
        naive = oracle(kind, log[:i], entry)
        found += [f"operation {i}: {text}" for text in differences(entity.names, map(naive.value, entity.names), out)]
    return found


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
def test_every_feature_equals_the_oracle(kind: Kind, data: st.DataObject) -> None:
    assert disagreements(kind, data.draw(logs(kind))) == []


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("step_ms", [3 * MINUTE_MS, 2 * HOUR_MS])
def test_every_feature_equals_the_oracle_over_a_long_log(kind: Kind, step_ms: int) -> None:
    assert disagreements(kind, random_log(kind, 300, seed=int(kind), step_ms=step_ms)) == []


@pytest.mark.parametrize("kind", Kind)
def test_every_feature_is_exercised(kind: Kind) -> None:
    """A feature that is always missing, or always the same, over the logs above would be proven by nothing."""
    values: dict[str, set[Value]] = {name: set() for name in kind_names(kind)}
    for step_ms in (3 * MINUTE_MS, 2 * HOUR_MS):
        log = random_log(kind, 300, seed=int(kind), step_ms=step_ms)
        for i, entry in enumerate(log):
            if isinstance(entry, Transaction):
                naive = Naive(kind, log[:i], entry)
                for name, seen in values.items():
                    seen.add(naive.value(name))
    assert {name for name, seen in values.items() if len(seen - {None}) < 2} == set()


@given(data=st.data())
def test_a_window_that_nobody_declared_equals_the_oracle(data: st.DataObject) -> None:
    catalogue = Catalogue.of(OTHER_FEATURES)
    kind = data.draw(st.sampled_from(Kind))
    assert disagreements(kind, data.draw(logs(kind)), catalogue=catalogue) == []


# --- lateness ----------------------------------------------------------------------------------------------------------------


class Unforgetting(Naive):
    """Keeps every event for ever: what the windows are by definition, without the log's retention."""

    def __init__(self, kind: Kind, log: Log, tx: Transaction) -> None:
        forgotten = RETENTION_MS[kind]
        RETENTION_MS[kind] = 10_000 * DAY_MS
        try:
            super().__init__(kind, log, tx)
        finally:
            RETENTION_MS[kind] = forgotten


def at_most_a_day_late(log: Log) -> list[Transaction | Label]:
    newest, kept = -(1 << 62), []
    for entry in log:
        if isinstance(entry, Transaction):
            if entry.event_time_ms < newest - DAY_MS:
                continue
            newest = max(newest, entry.event_time_ms)
        kept.append(entry)
    return kept


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=25)
@given(data=st.data())
def test_windows_of_an_event_up_to_one_day_late_miss_nothing(kind: Kind, data: st.DataObject) -> None:
    """An event exactly one day late still finds every neighbour of its longest window."""
    log = at_most_a_day_late(data.draw(logs(kind)))
    windowed = [name for name in kind_names(kind) if name[-1] in "mhd" and name.rsplit("_", 1)[1][:-1].isdigit()]
    assert len(windowed) >= 7
    assert disagreements(kind, log, Unforgetting, Catalogue.of(windowed)) == []


def test_an_event_a_day_late_sees_thirty_days_back_to_the_millisecond() -> None:
    newest = START_MS + 40 * DAY_MS
    late = newest - DAY_MS
    card = Entity(Kind.CARD)
    for t in (late - 30 * DAY_MS, late - 30 * DAY_MS + 1, newest):
        card.apply(transaction(t))
    out = card.apply(transaction(late))
    assert out is not None
    assert out[card.names.index("card_count_tx_30d")] == 2


def test_an_event_two_days_late_sees_what_the_log_still_keeps() -> None:
    """Beyond a day of lateness, what is older than the newest event less the retention is gone."""
    newest = START_MS + 40 * DAY_MS
    card = Entity(Kind.CARD)
    for t in (newest - 31 * DAY_MS, newest - 31 * DAY_MS + 1, newest):
        card.apply(transaction(t))
    out = card.apply(transaction(newest - 2 * DAY_MS))
    assert out is not None
    assert out[card.names.index("card_count_tx_30d")] == 2


# --- the oracle bites ----------------------------------------------------------------------------------------------------------


class InclusiveStart(Naive):
    """[end - window, end]."""

    def in_window(self, event_time_ms: int, end_ms: int, window_ms: int) -> bool:
        return end_ms - window_ms <= event_time_ms <= end_ms


class ExclusiveEnd(Naive):
    """Transactions of the same millisecond that arrived before are not earlier."""

    def is_earlier(self, other: Transaction) -> bool:
        return other.event_time_ms < self.t


class WithoutItself(Naive):
    """Windows leave this transaction out."""

    def window(self, window_ms: int) -> list[Transaction]:
        return super().window(window_ms)[:-1] or [self.tx]


class ReferenceWithItself(Naive):
    """A z-score compares with a window that holds this transaction."""

    def reference(self, window_ms: int) -> list[int]:
        return self.amounts(window_ms)


class FutureIncluded(Naive):
    """A late event sees what happened after it."""

    def is_earlier(self, other: Transaction) -> bool:
        return other is not None

    def in_window(self, event_time_ms: int, end_ms: int, window_ms: int) -> bool:
        return end_ms - window_ms < event_time_ms


class NoReversal(Naive):
    """Once fraud, always fraud."""

    def _fraud_times(self, labels: Iterable[Label]) -> list[int]:
        return super()._fraud_times(label for label in labels if label.is_fraud)


class RepeatedLabels(Naive):
    """A label that comes twice counts twice."""

    def _fraud_times(self, labels: Iterable[Label]) -> list[int]:
        return [label.transaction_time_ms for label in labels if label.is_fraud]


class NoLives(Naive):
    """An entity never starts anew."""

    def _current_life(self, arrived: object) -> list[Transaction]:
        assert isinstance(arrived, list)
        return list(arrived)


class RetentionOfAMonth(Naive):
    """The log keeps nothing for late events."""

    def __init__(self, kind: Kind, log: Log, tx: Transaction) -> None:
        full = RETENTION_MS[kind]
        RETENTION_MS[kind] = full - DAY_MS
        try:
            super().__init__(kind, log, tx)
        finally:
            RETENTION_MS[kind] = full


@pytest.mark.parametrize(
    ("mutant", "kind"),
    [
        *((InclusiveStart, kind) for kind in Kind),
        (ExclusiveEnd, Kind.CARD),
        (ExclusiveEnd, Kind.DEVICE),
        (WithoutItself, Kind.USER),
        (ReferenceWithItself, Kind.CARD),
        (FutureIncluded, Kind.MERCHANT),
        (NoReversal, Kind.MERCHANT),
        (RepeatedLabels, Kind.CARD),
        (NoLives, Kind.MERCHANT),
        (RetentionOfAMonth, Kind.CARD),
    ],
)
def test_a_wrong_definition_is_noticed(mutant: type[Naive], kind: Kind) -> None:
    """Each mutant of the oracle disagrees with the kernel somewhere on logs where the oracle itself agrees everywhere."""
    edges = [5 * MINUTE_MS, HOUR_MS, DAY_MS]
    ladder = [transaction(START_MS + t, transaction_id=f"e{t}") for t in (0, 0, *edges, *(2 * e for e in edges))]
    silence = [transaction(START_MS + t) for t in (0, LIFETIME_MS + DAY_MS, LIFETIME_MS + 31 * DAY_MS, LIFETIME_MS + 30 * DAY_MS)]
    candidates: list[Log] = [ladder, silence, *(random_log(kind, 120, seed, 6 * HOUR_MS) for seed in range(4))]
    assert not any(disagreements(kind, log) for log in candidates)
    assert any(disagreements(kind, log, mutant) for log in candidates)
