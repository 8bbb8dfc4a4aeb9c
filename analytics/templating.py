"""How everything is written that people look at: one style, escaped values, times in UTC, money with the places of its currency."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["STYLE_SHEET", "environment"]

_TEMPLATES = Path(__file__).parent / "templates"
STYLE_SHEET = _TEMPLATES / "style.css"


def environment(*folders: Path) -> Environment:
    """An environment whose templates are in ``folders`` and in this room's; everything that came from outside is escaped."""
    made = Environment(
        loader=FileSystemLoader([*folders, _TEMPLATES]), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "time": lambda time_ms: f"{_clock(time_ms)} UTC",
        "clock": _clock,
        "count": lambda value: f"{value:,}",
        "money": _money,
    }
    return made


def _money(amount_minor: int, exponent: int, currency: str) -> str:
    """An amount with the places that its currency has."""
    return f"{Decimal(amount_minor).scaleb(-exponent):,.{exponent}f} {currency}"


def _clock(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
