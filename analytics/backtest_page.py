"""The report of a backtest: as an article for the pages of the front, and as one page that needs nothing else."""

from __future__ import annotations

from typing import Any

from analytics.backtest import Backtest
from analytics.backtest_measures import Money
from analytics.shares import Share
from analytics.templating import STYLE_SHEET, environment

__all__ = ["article_of", "page_of"]


def page_of(result: Backtest) -> str:
    """The page, with no script, no font, no picture from anywhere."""
    return _render("backtest.html", result)


def article_of(result: Backtest) -> str:
    """What stands on the page, without the page around it."""
    return _render("backtest_article.html", result)


def _render(template: str, result: Backtest) -> str:
    made = environment()
    made.filters |= {"percent": _percent, "sums": _sums}
    style = STYLE_SHEET.read_text(encoding="utf-8")
    return made.get_template(template).render(result=result, draft=result.draft, reproduction=result.reproduction, style=style)


def _percent(share: Share) -> str:
    if share.value is None:
        return "none to count"
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%}; {share.hits:,} of {share.of:,})"


def _sums(sums: tuple[Money, ...], truth: str) -> str:
    amounts: list[Any] = [(money.currency, getattr(money, f"{truth}_minor")) for money in sums]
    return ", ".join(f"{currency} {minor:,}" for currency, minor in amounts if minor) or "0"
