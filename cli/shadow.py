"""The report of ``rules shadow`` and ``model shadow``: a challenger beside the decisions that were made."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD
from cli.output import print_error, print_lines, print_table, report

if TYPE_CHECKING:
    from analytics.shadow import Compared, ShadowReport

__all__ = ["add_report", "print_report"]


def add_report(command: argparse.ArgumentParser, what: str) -> None:
    """Add the arguments of a report to the command that tries a challenger."""
    command.add_argument("hash", nargs="?", default="", help=f"of the {what}, or the start of it; a report may leave it out: the newest")
    command.add_argument("--report", action="store_true", help="try nothing: compare what was tried with the decisions that were made")
    command.add_argument("--tenant", default="default", help="whose payments are reported (default: default)")


def print_report(arguments: argparse.Namespace, kind: str) -> int:
    """Report on a challenger of a kind, ``rules`` or ``model``."""
    from analytics.shadow import UnknownChallenger  # noqa: PLC0415 - help works without any package
    from infra.shadow import report_of  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    try:
        found = report_of(Stack().plan, arguments.tenant, kind, arguments.hash)
    except UnknownChallenger as unknown:
        print_error(str(unknown))
        return FINDING
    report(_payload(found), as_json=arguments.json, people=lambda: _print(found))
    return GOOD


def _payload(found: ShadowReport) -> dict[str, Any]:
    return {
        **asdict(found.asked),
        "agreement": found.asked.agreement.value,
        "outcomes": [{**asdict(one), "unlabelled": one.unlabelled} for one in found.outcomes],
        "rules": [asdict(one) for one in found.rules],
        "score_quantiles": {"of": [0.1, 0.5, 0.9, 0.99], **asdict(found.scores)},
    }


def _print(found: ShadowReport) -> None:
    asked, agreement = found.asked, found.asked.agreement
    print_lines(
        [
            f"{asked.kind} {asked.hash}",
            f"{asked.events:,} payments from {_moment(asked.first_event_ms)} to {_moment(asked.last_event_ms)}",
            f"{asked.agreed:,} with the same outcome: {agreement.value or 0.0:.2%} ({agreement.low:.2%} to {agreement.high:.2%})",
            f"{asked.stricter:,} stricter, {asked.looser:,} looser",
        ]
    )
    rows = [
        (one.live, one.tried, *(f"{count:,}" for count in (one.events, one.fraud, one.genuine, one.unlabelled)), *_money(one))
        for one in found.changes
    ]
    headings = ("decided", "tried", "payments", "fraud", "good", "unknown", "USD", "fraud, USD", "good, USD")
    print_table(headings, rows, title="\noutcomes that differ")
    firings = [(one.rule_id, f"{one.fired:,}", f"{one.fired_live:,}", f"{one.fraud:,}", f"{one.genuine:,}") for one in found.rules]
    print_table(("rule", "fired", "fired in the decisions", "on fraud", "on good"), firings, title="\nrules")
    scores = found.scores
    quantiles = [(name, *(f"{value:.4f}" for value in values)) for name, values in asdict(scores).items()]
    print_table(("score", "10 %", "50 %", "90 %", "99 %"), quantiles, title="\nscores")


def _money(one: Compared) -> list[str]:
    return [f"{usd:,.2f}" for usd in (one.usd, one.fraud_usd, one.genuine_usd)]


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1e3, UTC).isoformat(timespec="seconds")
