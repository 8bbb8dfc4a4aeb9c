"""The report of a backtest as one page that needs nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analytics.backtest import Backtest
from analytics.backtest_measures import Money, Share

__all__ = ["page_of"]

_TEMPLATES = Path(__file__).parent / "templates"


def page_of(result: Backtest) -> str:
    """The page; everything that came from outside is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"time": _time, "percent": _percent, "money": _money, "count": lambda value: f"{value:,}"}
    return environment.get_template("backtest.html").render(result=result, draft=result.draft, reproduction=result.reproduction)


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _percent(share: Share) -> str:
    if share.value is None:
        return "none to count"
    return f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%}; {share.hits:,} of {share.of:,})"


def _money(sums: tuple[Money, ...], truth: str) -> str:
    amounts: list[Any] = [(money.currency, getattr(money, f"{truth}_minor")) for money in sums]
    return ", ".join(f"{currency} {minor:,}" for currency, minor in amounts if minor) or "0"
