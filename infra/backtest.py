"""``rules backtest`` on the local stack: composition only; the work is ``analytics.backtest``'s."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from analytics.backtest import Backtest, Range, backtest
from analytics.backtest_page import article_of
from analytics.history import DECISION_FIELDS, EventHistory
from analytics.reports import Report, Reports
from fraud.catalogue import CATALOGUE
from fraud.rules import RuleSet
from infra.application import rule_book
from infra.plan import Plan
from infra.scoring_job import models_dir
from serving.clock import now_ms
from serving.model import load_model
from serving.rules_file import load_rules

__all__ = ["backtest_rules", "keep_report"]

OnStep = Callable[[str, int], Callable[[float], None]]


def backtest_rules(plan: Plan, rules: str, history: EventHistory, *, within: Range, maturity_ms: int, on_step: OnStep) -> Backtest:
    """Try rules on the decisions that a stack has recorded.

    Args:
        plan: of the stack.
        rules: path of a rule file, or how the hash of a kept set begins.
        history: where the record comes from.
        within: event times that count.
        maturity_ms: how long a complaint takes.
        on_step: see :func:`analytics.backtest.backtest`.

    Raises:
        InvalidRules: the file cannot be used.
        UnknownRules: no kept set begins so.
        IncompleteLedger: the record has gaps.
        NothingToTest: it has no decision in the range.
        Unavailable: the stack does not answer.
    """
    book = rule_book(plan)
    draft = _rules(rules, lambda start: book.rules(book.find(start)))
    read = history.read(on_step("reading", history.count()), DECISION_FIELDS)
    folder = models_dir(plan.layout)
    return backtest(
        read,
        draft,
        rules_of=cache(book.rules),
        model_of=cache(lambda sha256: load_model(folder, sha256)),
        within=within,
        maturity_ms=maturity_ms,
        on_step=on_step,
    )


def keep_report(plan: Plan, result: Backtest) -> str:
    """Put the report where the pages show it; returns its name."""
    reproduction = result.reproduction
    report = Report(now_ms(), result.rule_set_hash, result.first_event_ms, result.last_event_ms, reproduction.compared, reproduction.equal)
    Reports(plan.layout.reports).add(report, article_of(result), kept=plan.settings.backtest_reports)
    return report.name


def _rules(named: str, kept: Callable[[str], RuleSet]) -> RuleSet:
    path = Path(named).expanduser()
    return load_rules(path, CATALOGUE.index) if path.suffix or path.exists() else kept(named)
