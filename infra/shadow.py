"""``rules shadow --report`` and ``model shadow --report`` on the local stack: composition only; the work is ``analytics.shadow``'s."""

from __future__ import annotations

from analytics.reader import Reader, ReaderAccount
from analytics.shadow import ShadowReport, shadow_report
from infra.house_access import house_settings
from infra.plan import Plan

__all__ = ["report_of"]


def report_of(plan: Plan, tenant_id: str, kind: str, start: str) -> ShadowReport:
    """Compare a challenger with the decisions of a tenant; raises UnknownChallenger, Unavailable, Denied."""
    settings = house_settings(plan)
    reader = Reader(ReaderAccount(settings.url, *settings.reader))
    try:
        return shadow_report(reader, tenant_id, kind, start)
    finally:
        reader.close()
