"""The charts of the pages: what of a view is drawn, and the same in words for whoever does not see it.  Nothing is drawn of nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from analytics.charts import Chart, Contributions, Lines, Map, OutcomeBars, Place, Shares
from analytics.shares import Share
from analytics.views import AnswerTime, DecisionView, FeatureValue, Minute, RuleMeasured, ScenarioRecall
from api.rendering import Picture, readable

__all__ = ["PageCharts"]

_MINUTE_MS = 60_000
_STRONGEST = 12
_MOST_RULES = 20
_FEWEST = 10  # minutes


class PageCharts:
    """Each method gives None where there is nothing to show; ``draw`` makes the SVG of a chart, or raises Unavailable."""

    def __init__(self, draw: Callable[[Chart], str]) -> None:
        self._draw = draw

    def outcomes(self, minutes: Sequence[Minute], now_ms: int, shown: int) -> Picture | None:
        """Decisions per minute."""
        if not minutes:
            return None
        busiest = max(one.decisions for one in minutes)
        chart = OutcomeBars(
            [one.minute_ms for one in minutes],
            [one.allowed for one in minutes],
            [one.challenged for one in minutes],
            [one.denied for one in minutes],
            *_span(minutes[0].minute_ms, now_ms, shown),
        )
        return Picture(self._draw(chart), f"Bars: decisions a minute by outcome over {shown} minutes, at most {busiest:,} in a minute.")

    def times(self, times: Sequence[AnswerTime], now_ms: int, shown: int) -> Picture | None:
        """How long the API took."""
        answered = [one for one in times if one.answer_p99_ms is not None]
        if not answered:
            return None
        slowest = max(one.answer_p99_ms or 0.0 for one in answered)
        values = {"half within": [one.answer_p50_ms for one in times], "99 % within": [one.answer_p99_ms for one in times]}
        chart = Lines([one.minute_ms for one in times], values, "milliseconds", *_span(times[0].minute_ms, now_ms, shown))
        text = f"Lines: time to answer, by minute, half of the requests and 99 % of them; the slowest minute's 99 % took {slowest:.1f} ms."
        return Picture(self._draw(chart), text)

    def recall(self, scenarios: Sequence[ScenarioRecall]) -> Picture | None:
        """How much of each kind of fraud was stopped."""
        shares = [(one.kind, one.recall) for one in scenarios]
        return self._shares(shares, "share of the known fraud that was stopped, with its interval of 95 %", "Recall by scenario")

    def precision(self, rules: Sequence[RuleMeasured]) -> Picture | None:
        """How much of what each rule fired on was fraud."""
        shares = [(_rule_name(one), one.precision) for one in rules if one.labelled][:_MOST_RULES]
        return self._shares(shares, "share of labelled firings that were fraud, with its interval of 95 %", "Precision by rule")

    def contributions(self, view: DecisionView) -> Picture | None:
        """What the strongest features added to the raw score, and all others together."""
        asked = sorted((one for one in view.features if one.contribution), key=lambda one: -abs(one.contribution or 0.0))
        if not asked:
            return None
        shown, rest = asked[:_STRONGEST], asked[_STRONGEST:]
        bars = [(f"{one.feature} = {readable(one.value)}", one.contribution or 0.0) for one in shown]
        if rest:
            bars.append((f"{len(rest)} other features", math.fsum(one.contribution or 0.0 for one in rest)))
        chart = Contributions([name for name, _ in bars], [value for _, value in bars], "added to the model's raw score (SHAP)")
        return Picture(self._draw(chart), f"Bars: contributions to the raw score. Strongest: {_told(shown[:3])}.")

    def places(self, view: DecisionView) -> Picture | None:
        """The card's payments on a map, by their rows in the table."""
        numbered = list(enumerate(view.payments, start=1))
        places = [
            Place(number, one.lat, one.lon, one.outcome, one.decision_id == view.decision.decision_id)
            for number, one in reversed(numbered)
            if one.lat is not None and one.lon is not None and (one.lat, one.lon) != (0.0, 0.0)  # which is missing
        ]
        if not places:
            return None
        text = f"Map: {len(places)} of the card's {len(numbered)} payments, joined in their order; numbers are rows of the table below."
        return Picture(self._draw(Map(places)), text)

    def _shares(self, shares: Sequence[tuple[str, Share]], label: str, title: str) -> Picture | None:
        if not shares:
            return None
        chart = Shares(
            [name for name, _ in shares],
            [one.value or 0.0 for _, one in shares],
            [one.low for _, one in shares],
            [one.high for _, one in shares],
            [f"{one.hits:,} of {one.of:,}" for _, one in shares],
            label,
        )
        told = ", ".join(f"{name} {one.value or 0.0:.0%}" for name, one in shares)
        return Picture(self._draw(chart), f"Bars: {title}. {told}.")


def _span(first_ms: int, now_ms: int, shown: int) -> tuple[int, int]:
    """What the axis shows: from the first minute on, 10 minutes at least, to the end of this minute."""
    until_ms = (now_ms // _MINUTE_MS + 1) * _MINUTE_MS
    return max(until_ms - shown * _MINUTE_MS, min(first_ms, until_ms - _FEWEST * _MINUTE_MS)), until_ms


def _rule_name(rule: RuleMeasured) -> str:
    return rule.rule_id if rule.mode == "enabled" else f"{rule.rule_id} ({rule.mode})"


def _told(features: Sequence[FeatureValue]) -> str:
    return ", ".join(f"{one.feature} {one.contribution or 0.0:+.3f}" for one in features)
