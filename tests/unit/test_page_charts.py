"""What is drawn of a view, and what is said of it; the drawing itself is tested in ``test_charts``."""

from __future__ import annotations

from typing import Any

import pytest

from analytics.charts import Chart, Lines, Shares
from analytics.views import AnswerTime, Minute, RuleMeasured, ScenarioRecall
from api.page_charts import PageCharts

MINUTE_MS = 60_000
NOW_MS = 1_760_000_070_000  # half a minute into a minute
THIS_MINUTE_MS = NOW_MS // MINUTE_MS * MINUTE_MS


def kept() -> tuple[PageCharts, list[Any]]:
    drawn: list[Chart] = []

    def draw(chart: Chart) -> str:
        drawn.append(chart)
        return "<svg/>"

    return PageCharts(draw), drawn


def minute(ago: int, allowed: int = 1) -> Minute:
    return Minute(THIS_MINUTE_MS - ago * MINUTE_MS, allowed, 0, 0, 0)


def rule(fraud: int, labelled: int, mode: str = "enabled") -> RuleMeasured:
    return RuleMeasured("burst", mode, 9, 8, labelled, fraud, labelled - fraud, 20, 1.5, NOW_MS)


def test_nothing_is_drawn_of_nothing() -> None:
    charts, drawn = kept()
    assert [charts.outcomes([], NOW_MS, 60), charts.times([], NOW_MS, 60), charts.recall([]), charts.precision([])] == [None] * 4
    assert charts.times([AnswerTime(NOW_MS, None, None, 0.5)], NOW_MS, 60) is None  # the stream alone decided
    assert charts.precision([rule(0, 0)]) is None  # nobody has labelled anything
    assert drawn == []


@pytest.mark.parametrize(("oldest", "shown"), [(0, 10), (5, 10), (25, 26), (59, 60)])
def test_the_axis_begins_where_there_is_something_and_ends_with_this_minute(oldest: int, shown: int) -> None:
    charts, drawn = kept()
    charts.outcomes([minute(oldest), minute(0)], NOW_MS, 60)
    assert drawn[0].until_ms == THIS_MINUTE_MS + MINUTE_MS
    assert drawn[0].until_ms - drawn[0].from_ms == shown * MINUTE_MS


def test_a_minute_without_an_answer_is_a_gap() -> None:
    charts, drawn = kept()
    charts.times([AnswerTime(NOW_MS, 2.0, 9.0, 0.5), AnswerTime(NOW_MS, None, None, 0.5)], NOW_MS, 60)
    assert isinstance(drawn[0], Lines)
    assert drawn[0].values["99 % within"] == [9.0, None]


def test_shares_are_told_in_words_too_and_a_rule_in_shadow_says_so() -> None:
    charts, drawn = kept()
    recall = charts.recall([ScenarioRecall("card_testing", 4, 3)])
    precision = charts.precision([rule(1, 2), rule(2, 2, "shadow")])
    assert recall is not None
    assert precision is not None
    assert recall.alt == "Bars: Recall by scenario. card_testing 75%."
    assert precision.alt == "Bars: Precision by rule. burst 50%, burst (shadow) 100%."
    assert isinstance(drawn[0], Shares)
    assert drawn[0].notes == ["3 of 4"]
    assert drawn[0].lows[0] < 0.75 < drawn[0].highs[0]
