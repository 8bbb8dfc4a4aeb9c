"""Pattern tests: attacks that were planted are found, honest traffic of the same size raises nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.patterns import Finding, Limits, WindowEvents, detect
from fraud.patterns.findings import KINDS
from fraud.patterns.tails import binomial_tail, negative_binomial_tail, poisson_tail, regularity_tail
from serving.pattern_events import Row, alert_of_finding, pack_rows, row_of, to_window, unpack_rows
from tests.pattern_traffic import HOUR_MS, NOON_MS, PLOTS, WINDOW_MS, decision_of, honest_rows, plant

EVENTS = 6_000


@cache
def honest(seed: int) -> tuple[Row, ...]:
    return tuple(honest_rows(seed, EVENTS))


def window(rows: Sequence[Row], start_ms: int = NOON_MS) -> WindowEvents:
    return to_window("default", start_ms, start_ms + WINDOW_MS, [rows])


def found(rows: Sequence[Row], start_ms: int = NOON_MS) -> list[Finding]:
    return detect(window(rows, start_ms))[1]


@pytest.mark.parametrize("seed", range(6))
def test_honest_traffic_raises_nothing_at_any_hour_and_any_rate(seed: int) -> None:
    start_ms = NOON_MS + 4 * HOUR_MS * seed
    for events, users in ((EVENTS, 20_000), (EVENTS, 2_000), (300, 1_000)):
        rows = honest_rows(seed, events, start_ms=start_ms, users=users)
        assert found(rows, start_ms) == []


@pytest.mark.parametrize("step_ms", [1_000, 60_000])
def test_honest_traffic_with_a_coarse_clock_raises_nothing(step_ms: int) -> None:
    rows = [(row[0], row[1] - row[1] % step_ms, *row[2:]) for row in honest_rows(3, EVENTS, users=2_000)]
    assert found(rows) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", PLOTS)
def test_a_planted_attack_is_the_one_thing_found(name: str, seed: int) -> None:
    rows, kind, entity = plant(name, seed)
    findings = found([*honest(seed), *rows])
    assert [(finding.kind, finding.entity if entity else "") for finding in findings] == [(kind, entity)]
    # honest payments may come on top, at the same place say
    assert set(findings[0].transaction_ids) <= {row[0] for row in rows}
    assert findings[0].evidence["events"] >= 0.9 * len(rows)


@pytest.mark.parametrize("name", PLOTS)
def test_a_tenth_of_an_attack_is_not_enough(name: str) -> None:
    rows, _, _ = plant(name, 0, size=max(2, PLOTS[name][1] // 10))
    assert found([*honest(0), *rows]) == []


def test_all_attacks_together_are_each_found_once() -> None:
    rows = list(honest(1))
    expected = set()
    for name in PLOTS:
        if name in ("burst", "night", "price"):  # they use the same shop as the card testing
            continue
        planted, kind, _ = plant(name, 1)
        rows += planted
        expected.add(kind)
    kinds = [finding.kind for finding in found(rows)]
    assert sorted(kinds) == sorted(expected)


def test_every_kind_of_finding_is_known() -> None:
    planted = {kind for name in PLOTS for _, kind, _ in [plant(name, 0)]}
    assert planted <= set(KINDS)


@given(st.integers(0, 2**32), st.sampled_from(sorted(PLOTS)))
@settings(max_examples=15, deadline=None)
def test_the_order_of_events_does_not_matter(seed: int, name: str) -> None:
    rows = [*honest(2)[:2_000], *plant(name, 2)[0]]
    shuffled = list(rows)
    Random(seed).shuffle(shuffled)
    assert summary(found(shuffled)) == summary(found(rows))


def summary(findings: Sequence[Finding]) -> list[tuple[object, ...]]:
    return [
        (f.finding_id, f.kind, f.entity, f.severity, round(f.log_p, 9), f.transaction_ids, sorted(f.evidence.items())) for f in findings
    ]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, WINDOW_MS - 1), st.booleans(), st.floats(0, 1)), max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_small_window_is_judged_without_failing(events: list[tuple[int, int, bool, float]]) -> None:
    rows: list[Row] = [
        (str(n), NOON_MS + at, n, "USD", f"c{who}", None, f"m{who % 2}", None, None, who, who, score, declined, None, None)
        for n, (who, at, declined, score) in enumerate(events)
    ]
    for finding in found(rows):
        assert finding.log_p <= Limits().log_level(300.0, 1)
        assert 0 < len(finding.events) <= len(rows)


def test_a_finding_keeps_its_identity_when_more_events_come_and_not_in_another_window() -> None:
    rows, _, _ = plant("farm", 3)
    part, whole = found([*honest(0), *rows[:-2]]), found([*honest(0), *rows])
    assert part[0].finding_id == whole[0].finding_id
    later = [(row[0], row[1] + WINDOW_MS, *row[2:]) for row in (*honest(0), *rows)]
    assert found(later, NOON_MS + WINDOW_MS)[0].finding_id != whole[0].finding_id  # type: ignore[arg-type]


def test_severity_follows_reach_loss_and_risk() -> None:
    """Many cards, money through, risky: a step each; the same payments declined are a step less than through."""
    honest_part = list(honest(0))
    through = plant("spot", 0)[0]
    declined = [(*row[:12], True, *row[13:]) for row in through]
    assert [finding.severity for finding in found([*honest_part, *through])] == ["critical"]
    assert [finding.severity for finding in found([*honest_part, *declined])] == ["high"]  # type: ignore[list-item]
    assert [finding.severity for finding in found([*honest_part, *plant("one_card", 0)[0]])] == ["medium"]


def test_an_office_behind_one_address_is_no_attack() -> None:
    """The control of the planted proxy: as many cards, declined as rarely as everybody's."""
    rows = [(*row[:12], False, *row[13:]) for row in plant("proxy", 0)[0]]
    assert found([*honest(0), *rows]) == []  # type: ignore[list-item]


def test_a_subscription_with_one_price_is_no_attack() -> None:
    rows = [(*row[:11], 0.1, *row[12:]) for row in plant("price", 0, size=200)[0]]
    assert found([*honest(0), *rows]) == []  # type: ignore[list-item]


def test_a_looser_budget_finds_more() -> None:
    """The control that the budget is what holds findings back."""
    rows = [*honest(0), *plant("farm", 0, size=8)[0]]
    assert detect(window(rows))[1] == []
    assert detect(window(rows), Limits(false_alarms_per_day=1e9))[1] != []


def test_rows_survive_packing_and_decisions() -> None:
    rows = [*honest(0)[:200], *plant("night", 0)[0]]
    assert unpack_rows(pack_rows(rows)) == rows
    again = [row_of(decision_of(row)) for row in rows]
    # a merchant that is known for less than an hour has no rate
    young = [(*row[:13], None, None) if row[14] is not None and row[14] < 3_600 else row for row in rows]
    assert again == young


def test_an_alert_names_what_was_measured_and_the_newest_transaction() -> None:
    rows, _, _ = plant("farm", 0)
    events, findings = detect(window([*honest(0), *rows]))
    alert = alert_of_finding(findings[0], events)
    assert (alert.source, alert.score, alert.outcome) == ("cold", None, None)
    assert alert.reason == "PATTERN_COORDINATED_DEVICE"
    assert alert.transaction_id == rows[-1][0]
    assert "cards 25" in alert.details
    assert rows[0][0] in alert.details


def test_an_alert_shows_the_attack_and_not_the_shops_other_customers() -> None:
    rows, _, _ = plant("testing", 0)
    honest_customers = [(f"first-{n}", NOON_MS + n, *row[2:12], False, *row[13:]) for n, row in enumerate(rows[:6])]
    honest_customers += [(f"last-{n}", NOON_MS + WINDOW_MS - 1 - n, *row[2:12], False, *row[13:]) for n, row in enumerate(rows[:6])]
    events, findings = detect(window([*honest(0), *rows, *honest_customers]))  # type: ignore[list-item]
    declined = {row[0] for row in rows if row[12]}
    assert set(findings[0].transaction_ids) <= declined
    assert alert_of_finding(findings[0], events).transaction_id in declined


def test_poisson_tail_is_the_sum_of_its_terms() -> None:
    for mean in (0.3, 2.0, 11.5):
        for count in range(math.ceil(mean) + 1, 30):
            direct = math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count, 200))
            assert math.exp(poisson_tail(count, mean)) == pytest.approx(direct, rel=1e-9)


def test_binomial_tail_is_the_sum_of_its_terms() -> None:
    for trials, chance in ((10, 0.1), (40, 0.45)):
        for count in range(math.floor(trials * chance) + 1, trials + 1):
            direct = math.fsum(math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(count, trials + 1))
            assert math.exp(binomial_tail(count, trials, chance)) == pytest.approx(direct, rel=1e-9)


def test_negative_binomial_tail_is_the_mean_of_poisson_tails_over_the_rate() -> None:
    rng = np.random.default_rng(1)
    rates = rng.gamma(5.0, 0.5, 20_000)
    expected = np.mean([math.exp(poisson_tail(8, rate)) if rate < 8 else 1.0 for rate in rates])
    assert math.exp(negative_binomial_tail(8, 4, 0.5)) == pytest.approx(expected, rel=0.03)


def test_regularity_tail_is_how_often_chance_is_so_regular() -> None:
    """Against simulation: 5 intervals of a Poisson process."""
    rng = np.random.default_rng(2)
    gaps = rng.exponential(size=(400_000, 5))
    variation = gaps.std(axis=1) / gaps.mean(axis=1)
    for limit in (0.2, 0.3):
        assert math.exp(regularity_tail(limit, 5)) == pytest.approx((variation <= limit).mean(), rel=0.1)
    assert math.exp(regularity_tail(0.7, 5)) >= (variation <= 0.7).mean()
