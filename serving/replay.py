"""A past decision computed again from its record, with the model and the rules of its time, and compared to the last bit.

What the record says of the event and its features is taken as it stands; the features of the event alone are computed again as well.
That the windows were right as of their ``seq`` is what ``features backfill --ledger`` shows, which needs the logs of the entities.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE, EVENT_FEATURES
from fraud.errors import Unavailable
from fraud.rules import RuleSet
from fraud.vector import event_features, event_row
from serving.degraded import sides_down
from serving.model import Model
from serving.records import Decision
from serving.scoring import Scorer, ScoringInput

__all__ = ["Difference", "NotReplayable", "Replay", "recorded_extra", "replay"]

# Of the moment and of the door, not of the transaction: nothing to compute.
_NOT_COMPUTED = frozenset({"latency_ms", "trace_id", "served_at", "stream_score", "entities", "features", "transaction", "degraded"})


class NotReplayable(Exception):
    """The decision cannot be computed again here: ``what`` it would take is missing."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that came out otherwise."""

    field: str
    recorded: Any
    recomputed: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of a replay; it is ``equal`` when nothing differs."""

    decision_id: str
    differences: tuple[Difference, ...]
    model_sha256: str | None
    rule_set_hash: str | None
    recorded_code_version: str

    @property
    def equal(self) -> bool:
        """Whether every computed field is the recorded one, bit for bit."""
        return not self.differences


def replay(decision: Decision, rules_of: Callable[[str], RuleSet], model_of: Callable[[str], Model]) -> Replay:
    """Compute a decision again.

    Args:
        decision: as recorded.
        rules_of: a rule set by its hash; a ValueError says that there is none.
        model_of: a model by its SHA-256; raises Unavailable when there is none.

    Raises:
        NotReplayable: the catalogue, the rule set or the model of the decision is not here.
    """
    if decision.catalogue_version != CATALOGUE.version:
        raise NotReplayable(f"catalogue {decision.catalogue_version}: this program has {CATALOGUE.version}")
    rules, model = _rules(decision.rule_set_hash, rules_of), _model(decision.model_sha256, model_of)
    (again,) = Scorer(decision.door, decision.code_version).score(
        ScoringInput(
            transactions=[decision.transaction],
            features=np.array(decision.features)[None, :],
            late=[decision.late_event],
            entities=[decision.entities],
            blacklisted=[decision.blacklisted],
            extra=recorded_extra([decision], rules),
        ),
        rules,
        model,
    )
    differences = [*_feature_differences(decision), *_differences(decision, again)]
    return Replay(decision.decision_id, tuple(differences), decision.model_sha256, decision.rule_set_hash, decision.code_version)


def recorded_extra(decisions: Sequence[Decision], rules: RuleSet | None) -> NDArray[np.float64] | None:
    """The recorded features beyond the catalogue, float64[B, E] as the rule set reads them; None when it asks for none."""
    if rules is None or not rules.extra:
        return None
    recorded = [{feature.name: feature.value for feature in decision.extra_features} for decision in decisions]
    return np.array([[values.get(name, np.nan) for name in rules.extra] for values in recorded])


def _rules(digest: str | None, rules_of: Callable[[str], RuleSet]) -> RuleSet | None:
    try:
        return None if digest is None else rules_of(digest)
    except ValueError as error:
        raise NotReplayable(f"rule set {digest}: {error}") from error


def _model(digest: str | None, model_of: Callable[[str], Model]) -> Model | None:
    try:
        return None if digest is None else model_of(digest)
    except Unavailable as error:
        raise NotReplayable(f"model {digest}: {error.detail}") from error


def _feature_differences(decision: Decision) -> Iterable[Difference]:
    """The features that need no state, computed from the transaction."""
    vector = np.full(CATALOGUE.size, np.nan)
    event_features(event_row(decision.transaction), vector)
    for i, name in enumerate(CATALOGUE.names[: len(EVENT_FEATURES)]):
        if _bits(float(vector[i])) != _bits(float(decision.features[i])):
            yield Difference(f"features.{name}", float(decision.features[i]), float(vector[i]))


def _differences(recorded: Decision, again: Decision) -> Iterable[Difference]:
    for field in fields(Decision):
        if field.name not in _NOT_COMPUTED:
            before, after = getattr(recorded, field.name), getattr(again, field.name)
            if _bits(before) != _bits(after):
                yield Difference(field.name, _plain(before), _plain(after))
    before, after = sides_down(recorded.degraded), sides_down(again.degraded)
    if before != after:
        yield Difference("degraded", recorded.degraded, again.degraded)


def _bits(value: Any) -> Any:
    """A value to compare by: numbers by their bits, so that NaN equals itself and -0.0 is not 0.0; records by their fields."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, list | tuple):
        return [_bits(item) for item in value]
    if is_dataclass(value):
        return [_bits(getattr(value, field.name)) for field in fields(value)]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
