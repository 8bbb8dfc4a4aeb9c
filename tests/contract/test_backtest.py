"""The backtest's guarantee: production comes out as recorded or nothing is said, and a draft fires where a promotion would have."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analytics.backtest import Backtest, NothingToTest, Range, backtest
from analytics.backtest_page import page_of
from fraud.catalogue import CATALOGUE
from fraud.currency import to_base_minor
from fraud.decide import Outcome
from fraud.events import Label, Transaction
from fraud.rules import RuleSet
from serving import ledger
from serving.records import Decision, Erasure, ExtraFeature
from serving.scoring import Scorer, ScoringInput
from training.ledger_history import IncompleteLedger

from .backtest_world import SHIPPED, START_MS, VELOCITY, Recorded, play, play_promoted, rule, traffic, with_rules
from .pipeline import codec

MINUTE_MS = 60_000
USERS_AND_MERCHANTS = (
    rule("user_burst", "user_count_tx_17m > 2 and not missing(user_zscore_amount_3d)", message="{user_count_tx_17m} in 17 minutes"),
    rule("merchant_cards", "merchant_distinct_card_23m >= 3", score=0.2, state="shadow", message="{merchant_distinct_card_23m}"),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """A ledger over which three sets were in force: the shipped one, one with windows of its own, and one without again."""
    fewer = RuleSet(SHIPPED.rules[::2], CATALOGUE.index)
    return play(traffic(3, 420), [with_rules(SHIPPED, VELOCITY, *USERS_AND_MERCHANTS), fewer], tmp_path_factory.mktemp("models"))


def tried(recorded: Recorded, draft: RuleSet, **options: Any) -> Backtest:
    return backtest(recorded.history(), draft, rules_of=recorded.rules_of, model_of=recorded.model_of, **options)


def test_production_over_three_rule_sets_comes_out_as_recorded(recorded: Recorded) -> None:
    """Every operator was restored from its state several times on the way, and each shard changed rules at another moment."""
    result = tried(recorded, SHIPPED)
    decisions = recorded.decisions()
    assert result.reproduction.differing == ()
    assert result.reproduction.compared == len(decisions) == 420
    assert len(result.reproduction.rule_sets) == 3
    assert sum(bool(decision.extra_features) for decision in decisions) > 50
    assert sum(hit.rule_id == "velocity_37m" for decision in decisions for hit in decision.rules) > 5
    assert {decision.outcome for decision in decisions} == set(Outcome.__members__)


def test_what_was_live_as_a_draft_changes_nothing(tmp_path: Path) -> None:
    one_set = play(traffic(4, 150), [], tmp_path)
    draft = tried(one_set, SHIPPED).draft
    assert draft is not None
    assert (draft.changes, draft.stricter, draft.looser) == ((), (), ())
    assert draft.production == draft.draft
    assert all(effect.fired.stopped.events == effect.fired_in_production for effect in draft.rules)


def test_a_window_begins_anew_where_somebody_was_erased(tmp_path: Path) -> None:
    """The catalogue's features and those beyond it, each as the stream computed it after the erasure."""
    events: list[Transaction | Label | Erasure] = list(traffic(11, 300))
    for at in range(250, 100, -30):
        payment = next(one for one in events[at:] if isinstance(one, Transaction))
        events.insert(at, Erasure(payment.tenant_id, "card", payment.card_id, payment.event_time_ms))
    result = tried(play(events, [with_rules(SHIPPED, VELOCITY)], tmp_path), SHIPPED)
    assert result.reproduction.differing == ()
    assert result.reproduction.compared == 300


def _with_feature(decision: Decision) -> dict[str, Any]:
    features = np.array(decision.features)
    at = CATALOGUE.index["card_count_tx_5m"]
    features[at] = np.nextafter(features[at], np.inf)
    return {"features": features}


ALTERATIONS: dict[str, Any] = {
    "features": _with_feature,
    "score": lambda one: {"score": float(np.nextafter(one.score, 2.0))},
    "model_score": lambda one: {"model_score": one.model_score + 1e-12},
    "outcome": lambda one: {"outcome": "DENY" if one.outcome != "DENY" else "ALLOW"},
    "floor": lambda one: {"floor": None if one.floor else "CHALLENGE"},
    "rules that fired": lambda one: {"rules": [*one.rules[:-1], replace(one.rules[-1], message=one.rules[-1].message + " ")]},
    "extra features": lambda one: {"extra_features": [*one.extra_features[:-1], ExtraFeature(one.extra_features[-1].name, -1.0)]},
}


@pytest.mark.parametrize(("what", "alteration"), ALTERATIONS.items(), ids=ALTERATIONS)
def test_one_altered_record_makes_it_refuse_and_name_the_decision(recorded: Recorded, what: str, alteration: Any) -> None:
    victim = next(one for one in recorded.decisions() if one.extra_features and one.rules and one.outcome == "CHALLENGE")
    result = tried(recorded.with_altered(victim.decision_id, **alteration(victim)), SHIPPED)
    assert result.draft is None
    assert result.fired == {}
    assert {one.what: one.decision_ids for one in result.reproduction.differing} == {what: (victim.decision_id,)}
    assert victim.decision_id in page_of(result)


def test_a_hit_that_was_removed_from_the_record_is_noticed(recorded: Recorded) -> None:
    victim = next(one for one in recorded.decisions() if len(one.rules) > 1)
    (differing,) = tried(recorded.with_altered(victim.decision_id, rules=victim.rules[1:]), SHIPPED).reproduction.differing
    assert (differing.what, differing.decision_ids) == ("rules that fired", (victim.decision_id,))


def test_an_alteration_outside_the_range_is_not_its_business(recorded: Recorded) -> None:
    decisions = recorded.decisions()
    victim = max(decisions, key=lambda one: one.event_time_ms)
    altered = recorded.with_altered(victim.decision_id, score=0.123)
    assert tried(altered, SHIPPED, within=Range(to_ms=victim.event_time_ms)).reproduction.equal
    assert not tried(altered, SHIPPED, within=Range(from_ms=victim.event_time_ms)).reproduction.equal


def test_a_rule_set_or_model_that_is_gone_makes_it_refuse(recorded: Recorded) -> None:
    gone = Recorded(recorded.records, {SHIPPED.hash: SHIPPED}, recorded.models)
    result = tried(gone, SHIPPED)
    expected = {one.decision_id for one in recorded.decisions() if one.rule_set_hash != SHIPPED.hash}
    assert {identity for one in result.reproduction.differing for identity in one.decision_ids} == expected
    assert all("never in force here" in one.what for one in result.reproduction.differing)


def test_a_ledger_with_gaps_and_an_empty_range_are_refused(recorded: Recorded) -> None:
    first = next(i for i, (topic, _) in enumerate(recorded.records) if topic == ledger.DECISIONS)
    with pytest.raises(IncompleteLedger):
        tried(Recorded(recorded.records[:first] + recorded.records[first + 1 :], recorded.rule_sets, recorded.models), SHIPPED)
    with pytest.raises(NothingToTest):
        tried(recorded, SHIPPED, within=Range(from_ms=START_MS * 2))


# New windows


def _seq(decision: Decision, kind: str) -> int:
    return next((position.seq for position in decision.entities if position.kind == kind), 0)


def _log_of(decisions: list[Decision], one: Decision, kind: str, minutes: int) -> list[Decision]:
    """The plain reading: what the entity's log held when the decision was made, of the last minutes."""
    keys = {position.key for position in one.entities if position.kind == kind}
    mine = [other for other in decisions if keys & {position.key for position in other.entities if position.kind == kind}]
    begin_ms = one.event_time_ms - minutes * MINUTE_MS
    return [o for o in mine if _seq(o, kind) <= _seq(one, kind) and begin_ms < o.event_time_ms <= one.event_time_ms]


def _amount(decision: Decision) -> int:
    return to_base_minor(decision.transaction.amount_minor, decision.transaction.currency)


WINDOWS: dict[str, Any] = {
    "card_distinct_merchant_37m": lambda log: len({one.transaction.merchant_id for one in log}),
    "card_max_amount_11m": lambda log: max(map(_amount, log)),
    "user_sum_amount_7m": lambda log: sum(map(_amount, log)),
    "merchant_count_declined_3h": lambda log: sum(one.transaction.declined for one in log),
    "ip_distinct_card_90m": lambda log: len({one.transaction.card_id for one in log}),
}


@pytest.mark.parametrize(("name", "naive"), WINDOWS.items(), ids=WINDOWS)
def test_a_window_that_nobody_computed_equals_the_plain_reading_of_the_log(recorded: Recorded, name: str, naive: Any) -> None:
    """Every value is asked for with a rule for each, so the comparison goes through the draft's own door."""
    kind, minutes = name.split("_", maxsplit=1)[0], {"m": 1, "h": 60}[name[-1]] * int(name.rsplit("_", 1)[1][:-1])
    decisions = recorded.decisions()
    expected = {
        one.decision_id: float(naive(_log_of(decisions, one, kind, minutes)))
        for one in decisions
        if any(position.kind == kind for position in one.entities)
    }
    values = sorted(set(expected.values()))[:40]
    draft = RuleSet.parse({"rules": [rule(f"is_{i}", f"{name} == {value:.0f}") for i, value in enumerate(values)]}, CATALOGUE.index)
    fired = tried(recorded, draft).fired
    assert len(values) > 1
    for i, value in enumerate(values):
        assert set(fired[f"is_{i}"]) == {identity for identity, found in expected.items() if found == value}


def test_a_37_minute_rule_promoted_and_replayed_fires_on_the_identical_decisions(tmp_path: Path) -> None:
    """The ledger is written under the shipped rules; then the same traffic is played with the draft in force from the start."""
    events = traffic(9, 300)
    before = play_promoted(events, SHIPPED, tmp_path)
    draft = with_rules(SHIPPED, VELOCITY, *USERS_AND_MERCHANTS)
    result = tried(before, draft)
    after = play_promoted(events, draft, tmp_path)
    for rule_id in ("velocity_37m", "user_burst", "merchant_cards"):
        live = [one.decision_id for one in after.decisions() if any(hit.rule_id == rule_id for hit in one.rules)]
        assert sorted(result.fired[rule_id]) == sorted(live)
        assert len(live) > 5
    assert result.draft is not None
    outcomes = {one.decision_id: one.outcome for one in after.decisions()}
    changed = sum(outcomes[one.decision_id] != one.outcome for one in before.decisions())
    assert changed == sum(change.counts.events for change in result.draft.changes) > 5


# The draft


def _one_by_one(recorded: Recorded, draft: RuleSet) -> dict[str, tuple[str, list[Any]]]:
    """Each decision alone through the scoring use case, with the recorded features: outcome and hits by id."""
    found = {}
    for one in recorded.decisions():
        (again,) = Scorer("stream", "test").score(
            ScoringInput([one.transaction], np.array(one.features)[None], [one.late_event], [one.entities], [one.blacklisted]),
            draft,
            recorded.model_of(one.model_sha256 or ""),
        )
        found[one.decision_id] = again.outcome, [(hit.rule_id, hit.message) for hit in again.rules]
    return found


def test_a_changed_threshold_equals_brute_force(recorded: Recorded) -> None:
    draft = RuleSet([replace(one, when=one.when.replace("2000", "900").replace("2_000", "900")) for one in SHIPPED.rules], CATALOGUE.index)
    assert draft.hash != SHIPPED.hash
    result, expected = tried(recorded, draft), _one_by_one(recorded, draft)
    assert result.draft is not None
    before = {one.decision_id: one.outcome for one in recorded.decisions()}
    moves: dict[tuple[str, str], int] = {}
    for identity, (after, _) in expected.items():
        if after != before[identity]:
            moves[before[identity], after] = moves.get((before[identity], after), 0) + 1
    assert {(change.before, change.after): change.counts.events for change in result.draft.changes} == moves
    for rule_id, ids in result.fired.items():
        assert set(ids) == {identity for identity, (_, hits) in expected.items() if rule_id in {hit[0] for hit in hits}}


_NUMBERS = (
    "amount_usd",
    "card_count_tx_1h",
    "user_ratio_mean_amount_30d",
    "amount_minor",
    "merchant_mcc",
    "lat",
    "anomaly_score",
    "card_age_days",
)
_TEXTS = ("currency", "channel", "country", "merchant_id", "user_id", "transaction_type", "ip_country")
_TRUTHS = ("late_event", "card_blacklisted", "merchant_blacklisted", "anomaly_flag")


def _condition(rng: random.Random, depth: int = 0) -> str:
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return f"{rng.choice(_NUMBERS)} {rng.choice(['<', '<=', '>', '>=', '==', '!='])} {rng.choice([0, 1, 2, 17.5, 900, 5411])}"
    if kind == 1:
        return f"{rng.choice(_TEXTS)} {rng.choice(['==', '!='])} '{rng.choice(['USD', 'AT', 'pos', 'm1', 'u1', 'purchase'])}'"
    if kind == 2:
        return f"{rng.choice(_TEXTS)} {rng.choice(['in', 'not in'])} ('EUR', 'US', 'online', 'm2')"
    if kind == 3:
        return rng.choice([f"missing({rng.choice((*_NUMBERS, *_TEXTS, *_TRUTHS))})", rng.choice(_TRUTHS), f"not {rng.choice(_TRUTHS)}"])
    if kind == 4:
        return f"{rng.choice(_NUMBERS)} / {rng.choice(_NUMBERS)} between 0.5 and {rng.choice([2, 50])}"
    joined = f" {rng.choice(['and', 'or'])} ".join(_condition(rng, depth + 1) for _ in range(2))
    return f"not ({joined})" if kind == 7 else f"({joined})"


@pytest.mark.parametrize("seed", range(6))
def test_rules_over_columns_equal_rules_one_event_at_a_time(recorded: Recorded, seed: int) -> None:
    """Random sets over every type of word; the same hits and the same outcomes."""
    rng = random.Random(seed)
    states = ("enabled", "shadow", "disabled")
    draft = RuleSet.parse(
        {
            "rules": [
                rule(f"r{i}", _condition(rng), score=0.3, floor=rng.choice([None, "DENY"]), state=rng.choice(states)) for i in range(12)
            ]
        },
        CATALOGUE.index,
    )
    result, expected = tried(recorded, draft), _one_by_one(recorded, draft)
    assert result.draft is not None
    hits = {identity: sorted(hit[0] for hit in found) for identity, (_, found) in expected.items()}
    ours: dict[str, list[str]] = {identity: [] for identity in hits}
    for rule_id, ids in result.fired.items():
        for identity in ids:
            ours[identity].append(rule_id)
    assert {identity: sorted(ids) for identity, ids in ours.items()} == hits
    assert any(hits.values())
    stopped = sum(outcome != "ALLOW" for outcome, _ in expected.values())
    assert result.draft.draft.stopped.events == stopped


def test_labels_and_money_are_those_of_the_ledger(recorded: Recorded) -> None:
    """Counted again record by record: the newest label of each transaction, amounts by currency."""
    nothing = RuleSet([], CATALOGUE.index)
    result = tried(recorded, nothing)
    assert result.draft is not None
    labels: dict[tuple[str, str], bool] = {}
    applied = [codec().decode_label_applied(value) for topic, value in recorded.records if topic == ledger.LABELS_APPLIED]
    for label in sorted(applied, key=lambda label: label.label_time_ms):
        labels[label.tenant_id, label.transaction_id] = label.is_fraud
    after = {identity: outcome for identity, (outcome, _) in _one_by_one(recorded, nothing).items()}
    released = [one for one in recorded.decisions() if one.outcome != "ALLOW" and after[one.decision_id] == "ALLOW"]
    fraud = [one for one in released if labels.get((one.tenant_id, one.transaction_id))]
    unknown = [one for one in released if (one.tenant_id, one.transaction_id) not in labels]
    counts = result.draft.released
    assert (counts.events, counts.fraud, counts.unknown) == (len(released), len(fraud), len(unknown))
    assert len(fraud) > 3
    sums: dict[str, int] = {}
    for one in fraud:
        sums[one.transaction.currency] = sums.get(one.transaction.currency, 0) + one.transaction.amount_minor
    assert {money.currency: money.fraud_minor for money in result.draft.released_money if money.fraud_minor} == sums
    assert result.draft.unlabelled_released.events == len(unknown)


def test_the_page_stands_alone_and_escapes_what_comes_from_outside(recorded: Recorded) -> None:
    odd = rule("odd", "amount_usd > 100 and merchant_id != '<script>'", message="<b>{amount_usd}</b> & more")
    page = page_of(tried(recorded, with_rules(SHIPPED, odd)))
    assert "<script" not in page.replace("&lt;script", "")
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert page.count("<th scope=") == page.count("<th ")
