"""``rules backtest``: a draft of rules tried on what was decided, after production has been reproduced."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD, add_command, add_maturity
from cli.output import print_error, print_lines, print_table, progress_bar, report, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from analytics.backtest import Backtest, Draft
    from analytics.backtest_measures import Counts, Money
    from analytics.shares import Share
    from cli.arguments import Commands

__all__ = ["register"]

_SHOWN_IDS = 10

_DESCRIPTION = """\
Try a rule file, or a kept set by its hash, on the decisions that the ledger holds.  First what was live is run again over its own
history: unless every decision comes out as recorded, to the last bit, the command names those that do not and says nothing of the draft
(exit status 1).  A rule may ask for any window of the catalogue's grammar, such as card_distinct_merchant_37m: it is computed from the
entities' logs, and a promotion of the same rules makes the stream and the API compute it too.
"""


def register(rules: Commands) -> None:
    """Add the command to the group ``rules``."""
    command = add_command(
        rules, "backtest", _backtest, "try rules on recorded decisions, after reproducing production", description=_DESCRIPTION
    )
    command.add_argument("rules", metavar="FILE|RULESET", help="a rule file, or the hash of a kept set or the start of it")
    command.add_argument("--from", dest="from_ms", type=_moment, metavar="TIME", help="event times from here on, ISO 8601, UTC by default")
    command.add_argument("--to", dest="to_ms", type=_moment, metavar="TIME", help="event times before this")
    add_maturity(command)
    command.add_argument("--lake", action="store_true", help="read the lake, which keeps longer, and not the ledger's topics")
    command.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page as well")
    command.add_argument("--fired", type=Path, metavar="PARQUET", help="write which rule of the draft fires on which decision as well")


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-03-01 or 2026-03-01T12:30") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _backtest(arguments: argparse.Namespace) -> int:
    from analytics.backtest import NothingToTest, Range  # noqa: PLC0415 - help works without any package
    from analytics.backtest_page import page_of  # noqa: PLC0415
    from fraud.rules import InvalidRules  # noqa: PLC0415
    from infra.backtest import backtest_rules, keep_report  # noqa: PLC0415
    from infra.history import event_history  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415
    from serving.rule_book import UnknownRules  # noqa: PLC0415
    from training.ledger_history import IncompleteLedger  # noqa: PLC0415

    plan = Stack().plan
    with ExitStack() as bars:
        try:
            result = backtest_rules(
                plan,
                arguments.rules,
                event_history(plan, from_lake=arguments.lake),
                within=Range(arguments.from_ms, arguments.to_ms),
                maturity_ms=arguments.maturity_ms,
                on_step=_steps(bars),
            )
        except (InvalidRules, UnknownRules, IncompleteLedger, NothingToTest) as error:
            print_error(str(error))
            return FINDING
    say(f"the report is on the pages: {plan.addresses.pages_url}/backtests/{keep_report(plan, result)}")
    if arguments.html is not None:
        arguments.html.write_text(page_of(result), encoding="utf-8")
        say(f"wrote {arguments.html}")
    if arguments.fired is not None and result.draft is not None:
        _write_fired(result, arguments.fired)
    report(_payload(result), as_json=arguments.json, people=lambda: _print(result))
    return GOOD if result.reproduction.equal else FINDING


def _steps(bars: ExitStack) -> Callable[[str, int], Callable[[float], None]]:
    """One bar after the other: each step ends the one before."""

    def begin(text: str, total: int) -> Callable[[float], None]:
        bars.close()
        return bars.enter_context(progress_bar(text, total))

    return begin


def _payload(result: Backtest) -> dict[str, Any]:
    reproduction = result.reproduction
    return {
        "rule_set_hash": result.rule_set_hash,
        "first_event_ms": result.first_event_ms,
        "last_event_ms": result.last_event_ms,
        "newest_event_ms": result.newest_event_ms,
        "maturity_ms": result.maturity_ms,
        "labels": result.labels,
        "reproduction": {
            "equal": reproduction.equal,
            "compared": reproduction.compared,
            "differing": [asdict(one) for one in reproduction.differing],
            "rule_sets": dict(reproduction.rule_sets),
            "models": dict(reproduction.models),
            "without_store": reproduction.without_store,
        },
        "draft": None if result.draft is None else asdict(result.draft),
    }


def _write_fired(result: Backtest, path: Path) -> None:
    import polars as pl  # noqa: PLC0415

    pairs = [(rule_id, decision_id) for rule_id, ids in result.fired.items() for decision_id in ids]
    pl.DataFrame(pairs, schema={"rule_id": pl.String, "decision_id": pl.String}, orient="row").write_parquet(path)
    say(f"wrote {path}")


def _print(result: Backtest) -> None:
    reproduction = result.reproduction
    if result.draft is None:
        lines = [f"refused: not all of {reproduction.compared:,} decisions come out as recorded, so nothing is said of the draft"]
        for one in reproduction.differing:
            shown = ", ".join(one.decision_ids[:_SHOWN_IDS])
            lines.append(f"{one.what}: {len(one.decision_ids):,}: {shown}{', …' if len(one.decision_ids) > _SHOWN_IDS else ''}")
        print_lines(lines)
        return
    store = f"; {reproduction.without_store:,} of them were answered without a store" if reproduction.without_store else ""
    print_lines([f"reproduced: all {reproduction.compared:,} decisions come out as recorded, to the last bit{store}", ""])
    _print_draft(result.draft)


def _print_draft(draft: Draft) -> None:
    if draft.extra:
        print_table(("window beyond the catalogue", "what", "exact"), [(e.name, e.doc, e.bound or "exact") for e in draft.extra])
        print_lines([""])
    shares = [(name, _share(getattr(draft.production, name)), _share(getattr(draft.draft, name))) for name in _SHARES]
    stopped = ("stopped (fraud, good, unknown)", _counts(draft.production.stopped), _counts(draft.draft.stopped))
    print_table(("", "production", "draft"), [stopped, *((name.replace("_", " "), *pair) for name, *pair in shares)])
    print_lines(["", "changes (money in minor units)"])
    changes = [
        (f"{c.before} to {c.after}", f"{c.counts.events:,}", _counts(c.counts), _money(c.money, "fraud"), _money(c.money, "good"))
        for c in draft.changes
    ]
    print_table(("outcome", "decisions", "fraud, good, unknown", "fraud", "good"), changes)
    print_lines(["", "rules of the draft"])
    rules = [
        (r.rule_id, f"{r.fired.stopped.events:,}", f"{r.fired_in_production:,}", _counts(r.fired.stopped), _share(r.fired.precision))
        for r in draft.rules
    ]
    print_table(("rule", "fires", "fired in production", "fraud, good, unknown", "precision"), rules)
    released = draft.unlabelled_released
    estimate = f"about {released.fraud:.1f} frauds among them ({released.fraud_low:.1f} to {released.fraud_high:.1f})"
    print_lines(["", f"of what production stopped and nobody labelled, {released.events:,} would be released, with {estimate},"])
    print_lines(["estimated from labelled decisions of like score", ""])
    print_table(("merchant", "tenant", "stricter", "looser"), [(m.merchant_id, m.tenant_id, m.stricter, m.looser) for m in draft.merchants])
    for title, examples in (("stricter", draft.stricter), ("looser", draft.looser)):
        rows = [(e.decision_id, e.merchant_id, f"{e.currency} {e.amount_minor:,}", f"{e.before} to {e.after}", e.truth) for e in examples]
        if rows:
            print_lines(["", f"examples that become {title}"])
            print_table(("decision", "merchant", "minor units", "outcome", "truth"), rows)


_SHARES = ("precision", "recall", "false_positive_rate")


def _share(share: Share) -> str:
    return "-" if share.value is None else f"{share.value:.2%} ({share.low:.2%} to {share.high:.2%})"


def _counts(counts: Counts) -> str:
    return f"{counts.fraud:,}, {counts.good:,}, {counts.unknown:,}"


def _money(sums: tuple[Money, ...], truth: str) -> str:
    return ", ".join(f"{money.currency} {amount:,}" for money in sums if (amount := getattr(money, f"{truth}_minor"))) or "0"
