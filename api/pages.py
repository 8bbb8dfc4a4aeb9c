"""The pages for analysts, leads and admins: how it goes, how rules do, one decision, backtests.  They read and change nothing.

Everything comes from ClickHouse through the read-only account; while it is away a page says so, and scoring never notices.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import RedirectResponse, Response

from analytics.chart_worker import ChartWorker
from analytics.lag import TOPICS, behind, topic_ids
from analytics.reader import Reader, ReaderAccount
from analytics.reports import Reports
from analytics.shadow import challengers
from analytics.views import decision_view, newest_stopped, overview, rule_performance
from api.decisions import DECISION_ID, DecisionId
from api.desk import AtDesk
from api.identity import Caller, require
from api.page_charts import PageCharts
from api.problems import Problem
from api.rendering import Renderer, the_renderer
from api.sessions import PAGES, PEOPLE
from api.settings import ApiSettings
from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from serving import ledger

__all__ = ["PageParts", "open_pages", "router"]

_MINUTES = 60  # what the overview shows
_HOURS = 24
_REFRESH_S = 10
_LISTED = 50
_KAFKA_TIMEOUT_S = 1.0  # the page is more than this one number
_LAG_KEPT_S = 5.0

router = APIRouter(prefix=PAGES, include_in_schema=False)

Person = Annotated[Caller, require(*PEOPLE)]
TheRenderer = Annotated[Renderer, Depends(the_renderer)]


class SinkLag:
    """How many committed records ClickHouse lacks, asked at most every few seconds."""

    def __init__(self, bootstrap_servers: str, reader: Reader) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._reader = reader
        self._known: int | None = None
        self._asked_s = -math.inf

    def records(self) -> int | None:
        """Of all topics together; None while Kafka does not tell."""
        if time.monotonic() - self._asked_s > _LAG_KEPT_S:
            self._known, self._asked_s = self._ask(), time.monotonic()
        return self._known

    def _ask(self) -> int | None:
        try:
            ids = topic_ids(self._bootstrap_servers, TOPICS, timeout_s=_KAFKA_TIMEOUT_S)
            ends = ledger.end_offsets(self._bootstrap_servers, TOPICS, timeout_s=_KAFKA_TIMEOUT_S)
            return sum(behind(ids, ends, self._reader.offsets()).values())
        except Unavailable:
            return None


@dataclass(frozen=True, slots=True)
class PageParts:
    """What the pages are made of; ``reader`` is None where the installation has no analytics."""

    reader: Reader | None
    charts: PageCharts
    lag: SinkLag | None
    reports: Reports | None

    @property
    def house(self) -> Reader:
        """The reader; raises Unavailable."""
        if self.reader is None:
            raise Unavailable("clickhouse", "this installation has no analytics")
        return self.reader


@asynccontextmanager
async def open_pages(settings: ApiSettings) -> AsyncIterator[PageParts]:
    """Prepare the pages; nothing is connected before the first of them is asked for."""
    reader = _reader(settings)
    worker = ChartWorker()
    lag = None if reader is None else SinkLag(settings.bootstrap_servers, reader)
    reports = None if settings.reports_dir is None else Reports(FilePath(settings.reports_dir))
    try:
        yield PageParts(reader, PageCharts(worker.draw), lag, reports)
    finally:
        worker.close()
        if reader is not None:
            reader.close()


def _reader(settings: ApiSettings) -> Reader | None:
    if settings.clickhouse_url is None or settings.clickhouse_password is None:
        return None
    return Reader(ReaderAccount(settings.clickhouse_url, settings.clickhouse_user, settings.clickhouse_password))


def _parts(request: Request) -> Any:
    return request.state.pages


Parts = Annotated[PageParts, Depends(_parts)]


@router.get("")
def overview_page(caller: Person, parts: Parts, renderer: TheRenderer, live: Annotated[bool, Query()] = True) -> Response:
    """The last hour: decisions, times, recall, merchants at risk, and whether all of it is here."""
    now_ms = time.time_ns() // 1_000_000
    seen = overview(parts.house, caller.tenant_id, minutes=_MINUTES, hours=_HOURS)
    return renderer.page(
        "overview.html",
        current=PAGES,
        caller=caller,
        seen=seen,
        now_ms=now_ms,
        minutes=_MINUTES,
        hours=_HOURS,
        refresh_s=_REFRESH_S if live else None,
        lag_records=parts.lag.records() if parts.lag is not None else None,
        outcomes=parts.charts.outcomes(seen.minutes, now_ms, _MINUTES),
        times=parts.charts.times(seen.times, now_ms, _MINUTES),
        recall=parts.charts.recall(seen.scenarios),
    )


@router.get("/rules")
def rules_page(caller: Person, parts: Parts, renderer: TheRenderer) -> Response:
    """How often each rule fired, and on what; and what was tried beside the decisions."""
    rules = rule_performance(parts.house, caller.tenant_id)
    return renderer.page(
        "rules.html",
        current=f"{PAGES}/rules",
        caller=caller,
        rules=rules,
        precision=parts.charts.precision(rules),
        challengers=challengers(parts.house, caller.tenant_id),
    )


@router.get("/decisions")
def decisions_page(
    caller: Person, parts: Parts, renderer: TheRenderer, decision_id: Annotated[str, Query(alias="id", max_length=64)] = ""
) -> Response:
    """The newest payments that were stopped, and a way to any decision by its id."""
    wanted = decision_id.strip()
    if re.fullmatch(DECISION_ID, wanted):
        return RedirectResponse(f"{PAGES}/decisions/{wanted}", 303)
    stopped = newest_stopped(parts.house, caller.tenant_id, limit=_LISTED)
    return renderer.page("decisions.html", current=f"{PAGES}/decisions", caller=caller, stopped=stopped, misread=bool(wanted))


@router.get("/decisions/{decision_id}")
def decision_page(decision_id: DecisionId, caller: Person, parts: Parts, renderer: TheRenderer) -> Response:
    """One decision: the payment, why it came out so, and what the card did before."""
    view = decision_view(parts.house, caller.tenant_id, decision_id)
    if view is None:
        raise Problem(404, "not_found")
    units = {one.name: one.unit for one in CATALOGUE.entries}
    return renderer.page(
        "decision.html",
        current=f"{PAGES}/decisions",
        caller=caller,
        view=view,
        one=view.decision,
        units=units,
        contributions=parts.charts.contributions(view),
        places=parts.charts.places(view),
    )


@router.get("/backtests")
def backtests_page(caller: Person, parts: Parts, desk: AtDesk, renderer: TheRenderer) -> Response:
    """The reports that were written; they speak of every tenant, so they are the operator's."""
    desk.operator(caller)
    reports = parts.reports.list() if parts.reports is not None else []
    return renderer.page("backtests.html", current=f"{PAGES}/backtests", caller=caller, reports=reports)


@router.get("/backtests/{name}")
def backtest_page(name: Annotated[str, Path(max_length=64)], caller: Person, parts: Parts, desk: AtDesk, renderer: TheRenderer) -> Response:
    """One report."""
    desk.operator(caller)
    found = parts.reports.find(name) if parts.reports is not None else None
    if found is None:
        raise Problem(404, "not_found")
    report, article = found
    return renderer.page("backtest_report.html", current=f"{PAGES}/backtests", caller=caller, report=report, article=article)
