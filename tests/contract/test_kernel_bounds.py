"""Entities with more events than the exact head holds: what the catalogue declares as a bound is asserted here."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE, HEAD_CAP, Catalogue
from fraud.events import Kind, Label, Transaction
from tests.contract.logs import START_MS, Entity, kind_names, owned, transaction
from tests.contract.naive import DAY_MS, HOUR_MS, MINUTE_MS, RETENTION_MS, Naive

HIGH_VOLUME = (Kind.MERCHANT, Kind.DEVICE, Kind.IP)
NEWEST = HEAD_CAP // 2  # at least as many stay exact
SIZE, EVERY = 4_000, 20
WINDOW_MS = {"5m": 5 * MINUTE_MS, "1h": HOUR_MS, "24h": DAY_MS}


def busy_log(kind: Kind, seed: int) -> list[Transaction | Label]:
    """Sixteen days of traffic by bursts and lulls, up to a day out of order, with labels that come a week later."""
    rng = random.Random(seed)
    t = START_MS
    entries: list[Transaction | Label] = []
    pending: list[tuple[int, Label]] = []
    for i in range(SIZE):
        t += rng.choice((0, rng.randrange(MINUTE_MS), rng.randrange(MINUTE_MS), rng.randrange(20 * MINUTE_MS)))
        if rng.random() < 0.002:
            t += rng.randrange(6 * HOUR_MS)
        late = rng.randrange(DAY_MS) if rng.random() < 0.03 else 0
        tx = transaction(
            t - late,
            amount_minor=round(rng.lognormvariate(8, 1)),
            transaction_id=f"t{i}",
            card_id=f"c{rng.randrange(400)}",
            user_id=f"u{rng.randrange(300)}",
            declined=rng.random() < 0.1,
        )
        entries.append(owned(kind, tx))
        if rng.random() < 0.08:
            pending.append((t + 7 * DAY_MS, Label(f"t{i}", "default", "c", "m", t - late, t + 7 * DAY_MS, True)))
        while pending and pending[0][0] <= t:
            entries.append(pending.pop(0)[1])
    return entries


@dataclass(frozen=True)
class Reading:
    """The kernel's features of one transaction beside all that the entity's log was given."""

    tx: Transaction
    got: dict[str, float]
    naive: Naive
    kept: Sequence[Transaction]  # what the retention leaves, by event time

    def is_among_newest(self, window_ms: int) -> bool:
        """Whether the newest events of the entity hold the whole window."""
        return sum(x.event_time_ms > self.tx.event_time_ms - window_ms for x in self.kept) <= NEWEST

    def edge(self, t: int, amounts: bool = False) -> int:
        """Content of the one-hour bucket that ``t`` falls in."""
        start = t - t % HOUR_MS
        return sum(x.amount_minor if amounts else 1 for x in self.kept if start <= x.event_time_ms < start + HOUR_MS)


def catalogue(kind: Kind) -> Catalogue:
    """The kind's default features, and its flag counts over a window that the head does not hold."""
    longer = [f"{kind.name.lower()}_{name}" for name in ("count_declined_24h", "count_small_24h", "distinct_user_24h")]
    return Catalogue.of(dict.fromkeys([*kind_names(kind), *longer]))


@cache
def readings(kind: Kind) -> tuple[Reading, ...]:
    entity, log, found = Entity(kind, catalogue(kind)), busy_log(kind, seed=int(kind)), []
    for i, entry in enumerate(log):
        out: NDArray[np.float64] | None = entity.apply(entry)
        if out is None or not isinstance(entry, Transaction) or i % EVERY:
            continue
        newest = max(x.event_time_ms for x in log[: i + 1] if isinstance(x, Transaction))
        kept = [x for x in log[:i] if isinstance(x, Transaction) and x.event_time_ms > newest - RETENTION_MS[kind]]
        got = dict(zip(entity.names, out.tolist(), strict=True))
        found.append(Reading(entry, got, Naive(kind, log[:i], entry), sorted(kept, key=lambda x: x.event_time_ms)))
    assert entity.state[k.H_BUCKETS] > 0, "nothing was ever folded"
    return tuple(found)


def windows(kind: Kind, aggregate: str) -> list[tuple[str, int]]:
    prefix = f"{kind.name.lower()}_{aggregate}_"
    return [
        (name, WINDOW_MS[name.removeprefix(prefix)])
        for name in kind_names(kind, catalogue(kind))
        if name.startswith(prefix) and "delayed" not in name
    ]


@pytest.mark.parametrize("kind", HIGH_VOLUME)
def test_the_newest_events_are_exact(kind: Kind) -> None:
    exact = inexact = 0
    for reading in readings(kind):
        for aggregate in ("count_tx", "sum_amount", "distinct_card", "count_declined"):
            for name, window_ms in windows(kind, aggregate):
                if reading.is_among_newest(window_ms):
                    assert reading.got[name] == reading.naive.value(name)
                    exact += 1
                else:
                    inexact += 1
    assert exact > 500
    assert inexact > 100


@pytest.mark.parametrize("kind", HIGH_VOLUME)
@pytest.mark.parametrize("aggregate", ["count_tx", "sum_amount"])
def test_counts_and_sums_are_off_by_at_most_one_edge_bucket(kind: Kind, aggregate: str) -> None:
    off = 0
    for reading in readings(kind):
        for name, window_ms in windows(kind, aggregate):
            expected, t = reading.naive.value(name), reading.tx.event_time_ms
            assert expected is not None
            error, amounts = reading.got[name] - expected, aggregate == "sum_amount"
            # a bucket is left out at the old edge; for a late event, one may be counted whole at the young edge
            assert -reading.edge(t - window_ms, amounts) <= error <= reading.edge(t, amounts), name
            off += error != 0
    assert off > 0, "the bound was never needed: the log is too quiet to test it"


def test_a_mean_is_the_sum_over_the_count_even_when_they_are_bounded() -> None:
    for reading in readings(Kind.MERCHANT):
        assert reading.got["merchant_mean_amount_24h"] == reading.got["merchant_sum_amount_24h"] / reading.got["merchant_count_tx_24h"]


@pytest.mark.parametrize("kind", HIGH_VOLUME)
@pytest.mark.parametrize("aggregate", ["distinct_card", "distinct_user", "count_declined", "count_small"])
def test_distinct_and_flag_counts_are_lower_bounds_that_count_the_newest_events(kind: Kind, aggregate: str) -> None:
    columns = {"distinct_card": "card_id", "distinct_user": "user_id"}
    below = 0
    for reading in readings(kind):
        for name, window_ms in windows(kind, aggregate):
            t, exact = reading.tx.event_time_ms, reading.naive.value(name)
            assert exact is not None
            newest = [x for x in reading.kept[-NEWEST:] if t - window_ms < x.event_time_ms <= t] + [reading.tx]
            if aggregate in columns:
                at_least = len({getattr(x, columns[aggregate]) for x in newest})
            else:
                at_least = sum(x.declined if aggregate == "count_declined" else x.amount_minor <= 500 for x in newest)
            assert at_least <= reading.got[name] <= exact, name
            below += reading.got[name] < exact
    assert below > 0, "the bound was never needed"


def test_delayed_counts_and_risks_are_off_by_at_most_one_edge_bucket() -> None:
    off = risky = 0
    for reading in readings(Kind.MERCHANT):
        for window in ("1d", "7d", "30d"):
            end = reading.tx.event_time_ms - 7 * DAY_MS
            start = end - int(window[:-1]) * DAY_MS
            name, risk = f"merchant_count_delayed7d_{window}", f"merchant_risk_delayed7d_{window}"
            expected, expected_risk, got = reading.naive.value(name), reading.naive.value(risk), reading.got[name]
            assert expected is not None
            assert expected_risk is not None
            edge = max(reading.edge(start), reading.edge(end))
            assert abs(got - expected) <= edge, name
            # every label is of one transaction, so an edge holds no more labels than transactions
            assert abs(reading.got[risk] * got - expected_risk * expected) <= edge + 1e-6, risk
            off += got != expected
            risky += 0 < reading.got[risk] < 1
    assert off > 0
    assert risky > 100


@pytest.mark.parametrize("kind", HIGH_VOLUME)
def test_a_busy_entity_stays_small(kind: Kind) -> None:
    """The head is capped and a bucket an hour bounds the tail."""
    entity = Entity(kind)
    for entry in busy_log(kind, seed=7):
        entity.apply(entry)
    assert entity.state[k.H_LOG] <= HEAD_CAP
    assert entity.state[k.H_BUCKETS] <= RETENTION_MS[kind] // HOUR_MS + 1


@pytest.mark.parametrize("kind", [Kind.CARD, Kind.USER])
def test_a_card_or_user_has_no_cap(kind: Kind) -> None:
    """1,500 transactions in a day are counted one by one: nothing about a person is bounded but the remembered merchants."""
    entity = Entity(kind)
    for i in range(1_500):
        out = entity.apply(transaction(START_MS + i * 50_000, amount_minor=i, transaction_id=f"t{i}", merchant_id=f"m{i % 700}"))
    assert out is not None
    got = dict(zip(entity.names, out.tolist(), strict=True))
    person = kind.name.lower()
    assert (got[f"{person}_count_tx_24h"], got[f"{person}_sum_amount_24h"]) == (1_500, sum(range(1_500)))
    assert got[f"{person}_distinct_merchant_24h"] == 700
    assert got[f"{person}_ratio_p95_amount_30d"] == pytest.approx(1_499 / 1_424)  # rank 1425 of 0..1498
    bounded = [e.name for e in CATALOGUE.entries if e.name.startswith((f"{person}_",)) and e.bound]
    assert bounded == [f"{person}_first_seen_merchant"]


def test_the_last_64_merchants_that_left_the_log_are_remembered() -> None:
    card = Entity(Kind.CARD)
    for i in range(100):
        card.apply(transaction(START_MS + i, merchant_id=f"m{i}"))
    card.apply(transaction(START_MS + 40 * DAY_MS, merchant_id="other"))
    t = START_MS + 40 * DAY_MS + 1
    first_seen = [card.peek(transaction(t, merchant_id=f"m{i}"))[card.names.index("card_first_seen_merchant")] for i in range(100)]
    assert first_seen == [1.0] * 36 + [0.0] * 64
