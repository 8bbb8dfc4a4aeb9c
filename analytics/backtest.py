"""A draft of rules tried on recorded decisions: first production is reproduced, and only then does the draft have a say.

The windows that a draft asks for, also those that nobody ever computed, come from the entities' logs in their recorded order, by the
kernel that the stream and the API run; so the draft fires here on the events on which it would have fired there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.backtest_columns import Anomaly, Decided, in_parts
from analytics.backtest_measures import (
    Counts,
    Measures,
    Money,
    Unlabelled,
    counts_of,
    estimate_unlabelled,
    measure,
    money_of,
)
from analytics.backtest_reproduction import Reproduction, reproduce
from fraud import kernel as k
from fraud.catalogue import EVENT_FEATURES
from fraud.decide import Outcome, decide
from fraud.events import Kind
from fraud.extra import ExtraFeatures, extra_catalogue, extra_columns, in_order
from fraud.rules import RuleSet
from serving.degraded import sides_down
from serving.model import Model
from training.ledger_history import LedgerHistory
from training.truth import FRAUD, GOOD, recorded_truth

__all__ = ["Backtest", "Change", "Draft", "Example", "ExtraWindow", "MerchantEffect", "NothingToTest", "Range", "RuleEffect", "backtest"]

Rows = NDArray[np.intp]
Progress = Callable[[float], None]

_EXAMPLES = 10
_MERCHANTS = 10
_OUTCOMES = tuple(outcome.name for outcome in Outcome)
_TRUTH_NAMES = {FRAUD: "fraud", GOOD: "good"}
_FOREVER = 1 << 62
_MEASURED = (
    *("decision_id", "model_score", "transaction.tenant_id", "transaction.merchant_id", "transaction.currency"),
    "transaction.amount_minor",
)


class NothingToTest(ValueError):
    """The range has no decision."""


@dataclass(frozen=True, slots=True)
class Range:
    """Event times ``from_ms <= t < to_ms``; None is an open end."""

    from_ms: int | None = None
    to_ms: int | None = None

    def mask(self, event_time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which events are within."""
        return (event_time_ms >= (self.from_ms or -_FOREVER)) & (event_time_ms < (_FOREVER if self.to_ms is None else self.to_ms))


_EVERYTHING = Range()


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """What one rule of the draft does: where it fires, and how often the rule of the same id fired in production."""

    rule_id: str
    when: str
    state: str
    fired: Measures
    fired_in_production: int


@dataclass(frozen=True, slots=True)
class Change:
    """Decisions that go from one outcome to another."""

    before: str
    after: str
    counts: Counts
    money: tuple[Money, ...]


@dataclass(frozen=True, slots=True)
class MerchantEffect:
    """How many decisions of a merchant become stricter and looser."""

    tenant_id: str
    merchant_id: str
    stricter: int
    looser: int
    stricter_good: int
    looser_fraud: int


@dataclass(frozen=True, slots=True)
class Example:
    """One decision that comes out otherwise, and what the draft says of it."""

    decision_id: str
    tenant_id: str
    event_time_ms: int
    merchant_id: str
    amount_minor: int
    currency: str
    before: str
    after: str
    truth: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExtraWindow:
    """A feature beyond the catalogue that the draft asks for; ``bound`` says what is not exact about it ("" = exact)."""

    name: str
    unit: str
    doc: str
    missing: str
    bound: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What the draft would have meant.

    ``newly_stopped`` and ``released`` are by the step over the line between ALLOW and the rest; ``stricter`` and ``looser`` count every
    change of the outcome.  ``unlabelled`` estimates the fraud among those that production stopped and that therefore have no label:
    ``released`` of them would pass, ``kept`` stay stopped.
    """

    production: Measures
    draft: Measures
    rules: tuple[RuleEffect, ...]
    changes: tuple[Change, ...]
    newly_stopped: Counts
    newly_stopped_money: tuple[Money, ...]
    released: Counts
    released_money: tuple[Money, ...]
    unlabelled_released: Unlabelled
    unlabelled_kept: Unlabelled
    merchants: tuple[MerchantEffect, ...]
    stricter: tuple[Example, ...]
    looser: tuple[Example, ...]
    extra: tuple[ExtraWindow, ...]
    rules_were_down: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """``draft`` is None when production could not be reproduced.

    ``fired`` has, for each rule of the draft, the ids of the decisions on which it fires, in the order of the record.
    """

    rule_set_hash: str
    first_event_ms: int
    last_event_ms: int
    newest_event_ms: int
    maturity_ms: int
    labels: int
    reproduction: Reproduction
    draft: Draft | None
    fired: Mapping[str, tuple[str, ...]]


def backtest(
    history: LedgerHistory,
    draft: RuleSet,
    *,
    rules_of: Callable[[str], RuleSet],
    model_of: Callable[[str], Model],
    within: Range = _EVERYTHING,
    maturity_ms: int = 0,
    on_step: Callable[[str, int], Progress] = lambda _text, _total: lambda _done: None,
) -> Backtest:
    """Reproduce production over a range, then try the draft on it.

    Args:
        history: everything recorded, with ``DECISION_FIELDS``.
        draft: the rules to try.
        rules_of: a rule set by its hash; a ValueError says that there is none.
        model_of: a model by its SHA-256; raises Unavailable when there is none.
        within: event times that count.
        maturity_ms: how long a complaint takes: what was allowed later than that before the newest event, and has no label, is unknown.
        on_step: called with what begins now and how much there is of it; returns what is told how much is done.

    Raises:
        IncompleteLedger: the record of some entity has gaps, so that nothing can be computed again.
        NothingToTest: no decision in the range.
    """
    history.check_complete()
    times = history.events[:, k.E_T]
    rows = np.flatnonzero(within.mask(times))
    if not len(rows):
        raise NothingToTest("no decision was made in this range")
    on_step("recomputing features", len(times))
    names = _extra_names([draft, *_known(history, rows, rules_of)])
    decided = Decided(history, _features(history), names, _extra(history, names))
    reproduction = reproduce(
        history, decided, rows, rules_of=rules_of, model_of=model_of, on_done=on_step("reproducing decisions", len(rows))
    )
    newest_ms = int(times.max())
    tried: Draft | None = None
    fired: Mapping[str, tuple[str, ...]] = {}
    if reproduction.equal:
        truth = recorded_truth(history, maturity_ms)[rows]
        tried, fired = _try(history, decided, rows, draft, truth, reproduction, on_step("trying the draft", len(rows)))
    return Backtest(
        rule_set_hash=draft.hash,
        first_event_ms=int(times[rows].min()),
        last_event_ms=int(times[rows].max()),
        newest_event_ms=newest_ms,
        maturity_ms=maturity_ms,
        labels=len(history.labels.facts),
        reproduction=reproduction,
        draft=tried,
        fired=fired,
    )


# What was: features, labels, rule sets


def _features(history: LedgerHistory) -> NDArray[np.float64]:
    """Every feature computed again; of answers for which no state was read the recorded ones, in which every window is missing."""
    features = history.recompute().features
    if history.blind.any():
        features[history.blind] = history.recorded[history.blind]
    return features


def _extra_names(sets: Sequence[RuleSet]) -> tuple[str, ...]:
    names = {name for rules in sets for name in rules.extra}
    return in_order(sorted(names)) if names else ()


def _known(history: LedgerHistory, rows: Rows, rules_of: Callable[[str], RuleSet]) -> list[RuleSet]:
    """The rule sets that decided, as far as they are here; one that is not is the reproduction's to tell."""
    found = []
    for digest in history.also.frame["rule_set_hash"].gather(rows).drop_nulls().unique(maintain_order=True).to_list():
        try:
            found.append(rules_of(digest))
        except ValueError:
            continue
    return found


def _extra(history: LedgerHistory, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Features beyond the catalogue, ``float64[N, len(names)]``, in the recorded order and as of the recorded numbers."""
    if not names:
        return np.empty((len(history.events), 0))
    columns = extra_columns(names)
    kinds = [kind for kind in Kind if columns[kind].stop > columns[kind].start]
    found = history.recompute(extra_catalogue(names), kinds).features
    windows: NDArray[np.float64] = found[:, len(EVENT_FEATURES) :]
    windows[history.blind] = np.nan
    return windows


# What would have been


@dataclass(slots=True)
class _Trial:
    """Answers of the draft for the rows in hand: ``outcome`` int8[B] before and after, ``fired`` bool[R, B] by the draft's active rules."""

    before: NDArray[np.int8]
    after: NDArray[np.int8]
    fired: NDArray[np.bool_]
    rules_were_down: NDArray[np.bool_]


def _try(
    history: LedgerHistory,
    decided: Decided,
    rows: Rows,
    draft: RuleSet,
    truth: NDArray[np.int8],
    reproduction: Reproduction,
    on_done: Progress,
) -> tuple[Draft, Mapping[str, tuple[str, ...]]]:
    trial = _answers(decided, rows, draft, reproduction, on_done)
    frame = decided.recorded(_MEASURED, rows)
    before, after = trial.before > Outcome.ALLOW, trial.after > Outcome.ALLOW
    scores = frame["model_score"].fill_null(np.nan).to_numpy()
    looser, stricter = trial.after < trial.before, trial.after > trial.before
    ids = frame["decision_id"]
    in_production = _fired_in_production(history, rows)
    active = draft.active
    result = Draft(
        production=measure(truth, before),
        draft=measure(truth, after),
        rules=tuple(
            RuleEffect(rule.id, rule.when, rule.state.value, measure(truth, mask), in_production.get(rule.id, 0))
            for rule, mask in zip(active, trial.fired, strict=True)
        ),
        changes=_changes(frame, truth, trial),
        newly_stopped=counts_of(truth, after & ~before),
        newly_stopped_money=money_of(frame, truth, after & ~before),
        released=counts_of(truth, before & ~after),
        released_money=money_of(frame, truth, before & ~after),
        unlabelled_released=estimate_unlabelled(truth, scores, before & ~after),
        unlabelled_kept=estimate_unlabelled(truth, scores, before & after),
        merchants=_merchants(frame, truth, stricter, looser),
        stricter=_examples(decided, rows, draft, truth, trial, np.flatnonzero(stricter), reproduction),
        looser=_examples(decided, rows, draft, truth, trial, np.flatnonzero(looser), reproduction),
        extra=tuple(ExtraWindow(e.name, e.unit, e.doc, e.missing, e.bound) for e in ExtraFeatures(draft.extra).entries),
        rules_were_down=int(trial.rules_were_down.sum()),
    )
    return result, {rule.id: tuple(ids.filter(pl.Series(mask)).to_list()) for rule, mask in zip(active, trial.fired, strict=True)}


def _answers(decided: Decided, rows: Rows, draft: RuleSet, reproduction: Reproduction, on_done: Progress) -> _Trial:
    frame = decided.recorded(("outcome", "model_score", "degraded"), rows)
    before = frame["outcome"].replace_strict(_OUTCOMES, list(range(len(_OUTCOMES))), return_dtype=pl.Int8).to_numpy()
    scores = frame["model_score"].fill_null(np.nan).to_numpy()
    down = [sides_down(text) for text in frame["degraded"].to_list()] if frame["degraded"].null_count() < len(rows) else []
    rules_down = np.array([bool(sides & _RULES_DOWN) for sides in down]) if down else np.zeros(len(rows), dtype=np.bool_)
    after, fired = before.copy(), np.zeros((len(draft.active), len(rows)), dtype=np.bool_)
    without_model, has_anomaly = np.isnan(scores), reproduction.has_anomaly[rows]

    def answer(part: Rows) -> None:
        for mine in _alike(part, without_model, has_anomaly):
            evaluation = decided.evaluate(draft, rows[mine], _anomaly(decided, rows[mine], reproduction))
            fired[:, mine] = evaluation.fired
            model = None if without_model[mine[0]] else scores[mine]
            after[mine] = decide(model, evaluation.score, evaluation.floor, size=len(mine)).outcome

    for part, _ in in_parts(np.arange(len(rows)), answer):
        on_done(part[-1] + 1)
    after[rules_down] = before[rules_down]  # they would have been down for the draft too
    fired[:, rules_down] = False
    return _Trial(before, after, fired, rules_down)


_RULES_DOWN = frozenset({"rules_down"})


def _alike(part: Rows, *traits: NDArray[np.bool_]) -> list[Rows]:
    """The rows of a part by their traits: what is asked together is asked in the same way."""
    group = sum((trait[part].astype(np.int64) << i for i, trait in enumerate(traits)), np.zeros(len(part), dtype=np.int64))
    return [part[group == value] for value in np.unique(group)]


def _anomaly(decided: Decided, rows: Rows, reproduction: Reproduction) -> Anomaly | None:
    if not reproduction.has_anomaly[rows[0]]:
        return None
    return Anomaly(decided.frame["anomaly_score"].gather(rows).fill_null(np.nan).to_numpy(), reproduction.anomaly_flag[rows])


def _fired_in_production(history: LedgerHistory, rows: Rows) -> dict[str, int]:
    hits = history.also.items["rules"]
    within = np.zeros(history.frame.height, dtype=np.bool_)
    within[rows] = True
    counted = hits.filter(pl.Series(within[hits["row"].to_numpy()]))["rule_id"].value_counts()
    return dict(counted.iter_rows())


def _changes(frame: pl.DataFrame, truth: NDArray[np.int8], trial: _Trial) -> tuple[Change, ...]:
    found = []
    for before in Outcome:
        for after in Outcome:
            mask = (trial.before == before) & (trial.after == after)
            if before is not after and mask.any():
                found.append(Change(before.name, after.name, counts_of(truth, mask), money_of(frame, truth, mask)))
    return tuple(found)


def _merchants(
    frame: pl.DataFrame, truth: NDArray[np.int8], stricter: NDArray[np.bool_], looser: NDArray[np.bool_]
) -> tuple[MerchantEffect, ...]:
    """Those with most changes; among equals by their ids."""
    table = frame.select(pl.col("transaction.tenant_id").alias("tenant_id"), pl.col("transaction.merchant_id").alias("merchant_id"))
    table = table.with_columns(
        pl.Series("stricter", stricter),
        pl.Series("looser", looser),
        pl.Series("stricter_good", stricter & (truth == GOOD)),
        pl.Series("looser_fraud", looser & (truth == FRAUD)),
    ).filter(pl.col("stricter") | pl.col("looser"))
    sums = table.group_by("tenant_id", "merchant_id").agg(
        pl.col("stricter", "looser", "stricter_good", "looser_fraud").cast(pl.Int64).sum()
    )
    most = sums.sort(pl.col("stricter") + pl.col("looser"), "tenant_id", "merchant_id", descending=[True, False, False])
    return tuple(MerchantEffect(*row) for row in most.head(_MERCHANTS).iter_rows())


def _examples(
    decided: Decided,
    rows: Rows,
    draft: RuleSet,
    truth: NDArray[np.int8],
    trial: _Trial,
    places: Rows,
    reproduction: Reproduction,
) -> tuple[Example, ...]:
    """A few of the changed decisions, chosen by their ids, which are hashes: as good as by chance, and the same ones every time."""
    ids = decided.frame["decision_id"].gather(rows[places])
    chosen = places[ids.arg_sort().head(_EXAMPLES).to_numpy()]
    found = []
    for place in chosen.tolist():
        row = rows[place : place + 1]
        evaluation = decided.evaluate(draft, row, _anomaly(decided, row, reproduction))
        record = decided.frame.row(int(row[0]), named=True)
        found.append(
            Example(
                decision_id=record["decision_id"],
                tenant_id=record["transaction.tenant_id"],
                event_time_ms=record["transaction.event_time_ms"],
                merchant_id=record["transaction.merchant_id"],
                amount_minor=record["transaction.amount_minor"],
                currency=record["transaction.currency"],
                before=_OUTCOMES[trial.before[place]],
                after=_OUTCOMES[trial.after[place]],
                truth=_TRUTH_NAMES.get(int(truth[place]), "unknown"),
                reasons=tuple(f"{hit.rule_id}: {hit.message}" for hit in evaluation.reasons()[0] if not hit.shadow),
            )
        )
    return tuple(found)
