"""The first half of a backtest: what was live is run again over its own history and must come out as recorded, to the last bit.

Compared are the features as served, those beyond the catalogue that a rule set had asked for, both scores of the model, the anomaly
score, every rule that fired with its message, the rules' score, the forced floor, the score and the outcome.  The model's
contributions are not: they explain a decision and do not make it, and computing one takes as long as fifty predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.backtest_columns import Anomaly, Decided, in_parts
from analytics.history import HIT_FIELDS
from fraud.catalogue import CATALOGUE
from fraud.decide import Outcome, decide
from fraud.errors import Unavailable
from fraud.rules import Evaluation, RuleSet
from serving.degraded import sides_down
from serving.model import Model
from training.ledger_history import LedgerHistory
from training.parity import bits_differ

__all__ = ["Differing", "Reproduction", "reproduce"]

Rows = NDArray[np.intp]
Floats = NDArray[np.float64]
Progress = Callable[[float], None]

_FLOORS = (None, Outcome.CHALLENGE.name, Outcome.DENY.name)


@dataclass(frozen=True, slots=True)
class Differing:
    """Decisions that come out otherwise than recorded: ``what`` of them, and their ids."""

    what: str
    decision_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of it; only an ``equal`` one allows the rest.

    ``anomaly_flag`` is bool[N], what the detector flagged, and ``has_anomaly`` says of which decisions it was asked.
    """

    compared: int
    differing: tuple[Differing, ...]
    rule_sets: Mapping[str, int]
    models: Mapping[str, int]
    without_store: int
    anomaly_flag: NDArray[np.bool_]
    has_anomaly: NDArray[np.bool_]

    @property
    def equal(self) -> bool:
        """Whether every decision came out as recorded."""
        return not self.differing


class _Differences:
    """Collects ids by what differs."""

    def __init__(self, ids: pl.Series) -> None:
        self._ids = ids
        self._rows: dict[str, list[Rows]] = {}

    def note(self, what: str, rows: Rows) -> None:
        if len(rows):
            self._rows.setdefault(what, []).append(rows)

    def listed(self) -> tuple[Differing, ...]:
        return tuple(
            Differing(what, tuple(self._ids.gather(np.unique(np.concatenate(rows))).to_list())) for what, rows in self._rows.items()
        )


def reproduce(
    history: LedgerHistory,
    decided: Decided,
    rows: Rows,
    *,
    rules_of: Callable[[str], RuleSet],
    model_of: Callable[[str], Model],
    on_done: Progress = lambda _n: None,
) -> Reproduction:
    """Run what was live again.

    Args:
        history: as recorded.
        decided: the same decisions with their features computed again.
        rows: which decisions are compared, in ascending order.
        rules_of: a rule set by its hash; a ValueError says that there is none.
        model_of: a model by its SHA-256; raises Unavailable when there is none.
        on_done: told how many are done.
    """
    frame = decided.frame
    differences = _Differences(frame["decision_id"])
    for what, wrong in _features_differing(history, decided.features):
        differences.note(what, np.intersect1d(rows, wrong))
    flag, has_anomaly = np.zeros(frame.height, dtype=np.bool_), np.zeros(frame.height, dtype=np.bool_)
    recorded = _Recorded(history)
    counts: tuple[dict[str, int], dict[str, int]] = ({}, {})
    done = 0
    for (rule_set_hash, model_sha256), group in _by_versions(frame, rows):
        try:
            rules = None if rule_set_hash is None else rules_of(rule_set_hash)
        except ValueError as error:
            differences.note(f"rule set {rule_set_hash}: {error}", group)
            continue
        try:
            model = None if model_sha256 is None else model_of(model_sha256)
        except Unavailable as error:
            differences.note(f"model {model_sha256}: {error.detail}", group)
            continue
        for name, count in ((rule_set_hash, counts[0]), (model_sha256, counts[1])):
            if name is not None:
                count[name] = count.get(name, 0) + len(group)
        for part, (anomaly, differing) in in_parts(group, partial(_compare, decided, recorded, rules, model)):
            for what, mine in differing.items():
                differences.note(what, mine)
            if anomaly is not None:
                flag[part], has_anomaly[part] = anomaly.flag, True
            done += len(part)
            on_done(done)
    return Reproduction(len(rows), differences.listed(), counts[0], counts[1], int(history.blind[rows].sum()), flag, has_anomaly)


def _features_differing(history: LedgerHistory, features: Floats) -> Iterator[tuple[str, Rows]]:
    yield f"served by another catalogue than {CATALOGUE.version}", np.flatnonzero(~history.of_this_catalogue)
    yield "features", np.flatnonzero(history.differing(features))


def _by_versions(frame: pl.DataFrame, rows: Rows) -> Iterator[tuple[tuple[str | None, str | None], Rows]]:
    """Rows by what decided them, each group in ascending order."""
    versions = frame.select("rule_set_hash", "model_sha256")[rows].with_columns(pl.Series("at", rows))
    for key, group in versions.group_by(["rule_set_hash", "model_sha256"], maintain_order=True):
        yield (key[0], key[1]), group["at"].to_numpy()


class _Recorded:
    """What the decisions recorded, as arrays by row."""

    def __init__(self, history: LedgerHistory) -> None:
        frame = history.also.frame
        self.numbers = {
            name: frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
            for name in ("score", "model_score", "model_raw", "rules_score", "anomaly_score")
        }
        self.texts = {name: frame[name] for name in ("outcome", "floor")}
        self.degraded = frame["degraded"]
        # the items of a record are neighbours and records stand in the order of the rows
        self.hits = history.also.items["rules"]
        self.hit_starts = np.searchsorted(self.hits["row"].to_numpy(), np.arange(frame.height + 1))
        self.extra = history.also.items["extra_features"]
        self.extra_starts = np.searchsorted(self.extra["row"].to_numpy(), np.arange(frame.height + 1))


def _compare(
    decided: Decided, recorded: _Recorded, rules: RuleSet | None, model: Model | None, rows: Rows
) -> tuple[Anomaly | None, dict[str, Rows]]:
    """Compare some decisions of one rule set and one model with the record: what the detector says of them, and which differ in what."""
    missing = np.full(len(rows), np.nan)
    raw, calibrated, anomaly = missing, missing, None
    if model is not None:
        raw, calibrated = model.predict(decided.features_of(rows))
        if model.anomaly is not None:
            anomaly = Anomaly(*model.anomaly.evaluate(decided.features_of(rows)))
    evaluation = None if rules is None else decided.evaluate(rules, rows, anomaly)
    made = decide(
        None if model is None else calibrated,
        None if evaluation is None else evaluation.score,
        None if evaluation is None else evaluation.floor,
        size=len(rows),
    )
    numbers = {
        "model_raw": raw,
        "model_score": calibrated,
        "anomaly_score": missing if anomaly is None else anomaly.score,
        "rules_score": missing if evaluation is None else evaluation.score,
        "score": made.score,
    }
    differing = {name: bits_differ(values, recorded.numbers[name][rows]) for name, values in numbers.items()}
    floors = np.zeros(len(rows), np.int8) if evaluation is None else evaluation.floor
    texts = {
        "outcome": pl.Series([outcome.name for outcome in Outcome], dtype=pl.String).gather(made.outcome),
        "floor": pl.Series(_FLOORS, dtype=pl.String).gather(floors),
    }
    for name, texts_again in texts.items():
        differing[name] = texts_again.ne_missing(recorded.texts[name].gather(rows)).to_numpy()
    differing["degraded"] = _degraded_differ(recorded.degraded.gather(rows), made.degraded)
    differing["rules that fired"] = _hits_differ(evaluation, rules, recorded, rows)
    differing["extra features"] = _extra_differ(decided, rules, recorded, rows)
    return anomaly, {what: rows[mask] for what, mask in differing.items()}


def _degraded_differ(recorded: pl.Series, again: str | None) -> NDArray[np.bool_]:
    """Whether other sides were down, in the words of either door."""
    sides = sides_down(again)
    wrong = [text for text in recorded.unique().to_list() if sides_down(text) != sides]
    return recorded.is_in(wrong, nulls_equal=True).to_numpy() if wrong else np.zeros(len(recorded), dtype=np.bool_)


def _hits_differ(evaluation: Evaluation | None, rules: RuleSet | None, recorded: _Recorded, rows: Rows) -> NDArray[np.bool_]:
    """Whether other rules fired, or the same ones with another score, floor, mode or message."""
    counts = np.diff(recorded.hit_starts)[rows]
    if evaluation is None or rules is None:
        return counts > 0
    fired = evaluation.fired.sum(axis=0)
    differs: NDArray[np.bool_] = fired != counts
    same = np.flatnonzero(~differs & (fired > 0))
    if not len(same):
        return differs
    hits = evaluation.fired[:, same]
    which, places = np.nonzero(hits)
    ranks = np.cumsum(hits, axis=0)[which, places] - 1  # a record lists the rules that fired in the order of the set
    theirs = recorded.hits[recorded.hit_starts[rows[same]][places] + ranks]
    ends = np.cumsum(hits.sum(axis=1))
    written = [evaluation.messages(rule, same[mine]) for rule, mine in enumerate(np.split(places, ends[:-1]))]
    ours = _hits_of(rules)[which].with_columns(pl.Series("message", list(chain.from_iterable(written)), dtype=pl.String))
    for name in HIT_FIELDS:
        differs[same[places[ours[name].ne_missing(theirs[name]).to_numpy()]]] = True
    return differs


def _hits_of(rules: RuleSet) -> pl.DataFrame:
    """What a hit of each rule that is not disabled says beside its message."""
    return pl.DataFrame(
        [
            (rule.id, rule.reason_code, rule.severity.value, rule.score, None if rule.floor is None else rule.floor.name, rule.state.value)
            for rule in rules.active
        ],
        schema={name: pl.Float64 if name == "score" else pl.String for name in HIT_FIELDS if name != "message"},
        orient="row",
    )


def _extra_differ(decided: Decided, rules: RuleSet | None, recorded: _Recorded, rows: Rows) -> NDArray[np.bool_]:
    """Whether other features beyond the catalogue were served, or others were asked for."""
    counts = np.diff(recorded.extra_starts)[rows]
    names = () if rules is None else rules.extra
    differs: NDArray[np.bool_] = counts != len(names)
    same = np.flatnonzero(~differs)
    if not names or rules is None or not len(same):
        return differs
    places = (recorded.extra_starts[rows[same]][:, None] + np.arange(len(names))).ravel()
    theirs = recorded.extra[places]
    wrong = bits_differ(theirs["value"].to_numpy().reshape(-1, len(names)), decided.extra_of(rules, rows[same])).any(axis=1)
    wrong |= (theirs["name"].to_numpy().reshape(-1, len(names)) != np.array(names, dtype=object)).any(axis=1)
    differs[same[wrong]] = True
    return differs
