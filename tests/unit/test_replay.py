"""Random decisions, replayed after the model and the rules have changed: equal bit for bit, or said what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.rules import RuleSet
from fraud.vector import event_features, event_row
from serving.degraded import DOOR_WORDS
from serving.model import Model, load_model
from serving.model_files import Calibration, Manifest, publish
from serving.records import Decision
from serving.replay import NotReplayable, replay
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from serving.scoring import Scorer, ScoringInput
from tests.unit.test_model import train_text
from tests.wire_samples import codec, transaction

COUNT = 1_000
NAMES = tuple(CATALOGUE.names[::9])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    folder = tmp_path_factory.mktemp("models")
    manifest = Manifest(feature_names=NAMES, catalogue_version=CATALOGUE.version, calibration=Calibration(1.1, -0.2))
    return [load_model(folder, publish(folder, train_text(seed, NAMES), manifest)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def rule_sets() -> list[RuleSet]:
    shipped = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    fewer = RuleSet([replace(rule, score=rule.score / 2) for rule in shipped.rules[::2]], CATALOGUE.index)
    return [shipped, fewer]


@pytest.fixture(scope="module")
def decisions(models: list[Model], rule_sets: list[RuleSet]) -> list[Decision]:
    """Decisions of two models, two rule sets, both doors and every rung of the ladder, as they come out of their records."""
    random, wire = np.random.default_rng(7), codec()
    made: list[Decision] = []
    for batch in range(COUNT // 50):
        transactions = [
            transaction(
                transaction_id=f"t{batch}-{i}",
                amount_minor=int(random.integers(0, 10_000_000)),
                event_time_ms=1_700_000_000_000 + int(random.integers(0, 10**9)),
                ip_address=None,
                lat=float(random.uniform(-90, 90)),
                lon=float(random.uniform(-180, 180)),
                channel=str(random.choice(["pos", "online", "chip"])),
            )
            for i in range(50)
        ]
        features = np.abs(random.normal(size=(50, CATALOGUE.size))) * 10 ** random.uniform(0, 5, size=(50, CATALOGUE.size))
        features[random.random(features.shape) < 0.2] = np.nan
        for tx, vector in zip(transactions, features, strict=True):
            event_features(event_row(tx), vector)
        model = None if batch % 5 == 3 else models[batch % 2]
        rules = None if batch % 7 == 5 else rule_sets[(batch // 2) % 2]
        found = Scorer(("stream", "api")[batch % 2], "test").score(
            ScoringInput(
                transactions, features, (random.random(50) < 0.2).tolist(), [[]] * 50, [["card"] if i % 9 == 0 else [] for i in range(50)]
            ),
            rules,
            model,
        )
        if batch % 2:
            for one in found:  # as the API words it
                words = [*([] if model else ["model_down"]), *([] if rules else ["rules_down"]), "store_down", "kafka_down"]
                one.degraded, one.latency_ms = ",".join(words), 1.5
        made += [wire.decode_decision(wire.encode_decision(one)) for one in found]
    return made


@pytest.fixture(scope="module")
def again(models: list[Model], rule_sets: list[RuleSet]) -> Callable[[Decision], Any]:
    by_sha, by_hash = {model.sha256: model for model in models}, {rules.hash: rules for rules in rule_sets}

    def rules_of(digest: str) -> RuleSet:
        if digest not in by_hash:
            raise ValueError("never in force here")
        return by_hash[digest]

    def model_of(sha256: str) -> Model:
        if sha256 not in by_sha:
            raise Unavailable("model", "not published")
        return by_sha[sha256]

    return lambda decision: replay(decision, rules_of, model_of)


def test_a_thousand_decisions_of_other_models_and_rules_are_equal_to_the_last_bit(
    decisions: list[Decision], again: Callable[[Decision], Any]
) -> None:
    assert {decision.outcome for decision in decisions} == {"ALLOW", "CHALLENGE", "DENY"}
    assert len({(decision.model_sha256, decision.rule_set_hash, decision.door) for decision in decisions}) > 8
    assert any(decision.contributions for decision in decisions)
    assert sum(bool(decision.rules) for decision in decisions) > COUNT / 2
    different = [(decision.decision_id, found.differences) for decision in decisions if not (found := again(decision)).equal]
    assert (len(decisions), different) == (COUNT, [])


def first(decisions: list[Decision], wanted: Callable[[Decision], object]) -> Decision:
    return next(decision for decision in decisions if wanted(decision))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"score": lambda d: np.nextafter(d.score, 2.0).item()}, "score"),
        ({"model_raw": lambda d: -d.model_raw}, "model_raw"),
        ({"outcome": lambda _: "ALLOW"}, "outcome"),
        ({"rules": lambda d: d.rules[1:]}, "rules"),
        ({"rules": lambda d: [replace(d.rules[0], message="other"), *d.rules[1:]]}, "rules"),
        ({"contributions": lambda d: d.contributions[:-1]}, "contributions"),
        ({"late_event": lambda d: not d.late_event}, None),
        ({"degraded": lambda _: "model_down"}, "degraded"),
        ({"blacklisted": lambda _: ["card"]}, None),
    ],
    ids=str,
)
def test_one_altered_field_is_named(
    decisions: list[Decision], again: Callable[[Decision], Any], change: dict[str, Callable[[Decision], Any]], named: str | None
) -> None:
    """The negative control.  What is an input and changes nothing (``None``) may come out equal, and is the record's word."""
    whole = first(decisions, lambda d: d.contributions and d.rules and not d.blacklisted and d.outcome == "DENY")
    altered = replace(whole, **{name: make(whole) for name, make in change.items()})
    differences = {difference.field for difference in again(altered).differences}
    assert again(whole).equal
    assert named is None or named in differences


@pytest.mark.parametrize("word", sorted(DOOR_WORDS))
def test_a_word_of_the_apis_ladder_that_changes_no_number_is_no_difference(
    decisions: list[Decision], again: Callable[[Decision], Any], word: str
) -> None:
    answered = first(decisions, lambda d: d.door == "api" and d.degraded == "store_down,kafka_down")
    assert again(replace(answered, degraded=word)).equal
    assert not again(replace(answered, degraded="a word that nobody knows")).equal  # the control


def test_a_transaction_that_does_not_fit_its_features_is_named(decisions: list[Decision], again: Callable[[Decision], Any]) -> None:
    decision = decisions[0]
    altered = replace(decision, transaction=replace(decision.transaction, amount_minor=decision.transaction.amount_minor + 1))
    assert any(difference.field.startswith("features.") for difference in again(altered).differences)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"model_sha256": "f" * 64}, "model f"),
        ({"rule_set_hash": "f" * 64}, "rule set f"),
        ({"catalogue_version": "0" * 16}, "catalogue 0"),
    ],
    ids=str,
)
def test_what_is_missing_for_a_replay_is_named(
    decisions: list[Decision], again: Callable[[Decision], Any], change: dict[str, str], what: str
) -> None:
    with pytest.raises(NotReplayable, match=what):
        again(replace(first(decisions, lambda d: d.model_sha256 and d.rule_set_hash), **change))
