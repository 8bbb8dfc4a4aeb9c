"""Pages as people's browsers get them: written here, with a policy that lets them load a style sheet of ours and nothing else."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.responses import HTMLResponse

from analytics.templating import STYLE_SHEET, environment

__all__ = ["Picture", "Renderer", "readable", "the_renderer"]

_TEMPLATES = Path(__file__).parent / "templates"
# pictures come inside of the page; an SVG in an img element runs no script and loads nothing
_POLICY = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart, and what it says in words to whoever does not see it."""

    svg: str
    alt: str

    @property
    def base64(self) -> str:
        """As a data address wants it."""
        return base64.b64encode(self.svg.encode()).decode("ascii")


class Renderer:
    """Fills templates; safe to share between threads."""

    def __init__(self, *, is_production: bool) -> None:
        self.is_production = is_production
        self.style = STYLE_SHEET.read_text(encoding="utf-8")
        self._environment = environment(_TEMPLATES)
        self._environment.filters |= {"number": readable, "share": lambda value: f"{value:.1%}"}

    def page(self, template: str, status: int = 200, *, current: str = "", caller: Any = None, **values: Any) -> HTMLResponse:
        """A page; ``current`` is the path that the navigation marks."""
        html = self._environment.get_template(template).render(current=current, caller=caller, **values)
        return HTMLResponse(html, status, headers={"Content-Security-Policy": _POLICY})


def the_renderer(request: Request) -> Any:
    """The one of this process."""
    return request.app.state.renderer


def readable(value: float) -> str:
    """Six digits at most; a value that is not a number is missing."""
    if value != value:  # noqa: PLR0124 - NaN
        return "missing"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.6g}"
