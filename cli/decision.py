"""``decision``: one past decision, shown with everything that went into it, or computed again and compared."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD, add_command, add_group
from cli.output import print_error, print_lines, print_table, report

if TYPE_CHECKING:
    from cli.arguments import Commands
    from serving.records import Decision

__all__ = ["register"]

_REPLAY = """\
Compute a past decision again from its record, with the model and the rules of that time, and compare every field bit for bit.
Exit status 1 when something differs (it is named), or when the model, the rules or the catalogue of that time are not here.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    decision = add_group(commands, "decision", "past decisions: show, replay")
    show = add_command(decision, "show", _show, "a decision with its features, rules and contributions")
    replay = add_command(decision, "replay", _replay, "compute a decision again and compare", description=_REPLAY)
    for parser in (show, replay):
        parser.add_argument("id", help="the decision_id of an answer, a record or an alert")
        parser.add_argument("--tenant", default="default", metavar="ID", help="whose it is (default default)")


def _show(arguments: argparse.Namespace) -> int:
    from api.decisions import describe  # noqa: PLC0415 - help works without any package
    from infra.decisions import find  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    found = find(Stack().plan, arguments.id, arguments.tenant)
    if found is None:
        return _nothing(arguments)
    report(describe(found), as_json=arguments.json, people=lambda: _print(found, describe(found)))
    return GOOD


def _replay(arguments: argparse.Namespace) -> int:
    from infra.decisions import find_and_replay  # noqa: PLC0415 - help works without any package
    from infra.stack import Stack  # noqa: PLC0415
    from serving.replay import NotReplayable  # noqa: PLC0415

    try:
        found = find_and_replay(Stack().plan, arguments.id, arguments.tenant)
    except NotReplayable as error:
        print_error(f"cannot be computed again: {error.what}")
        return FINDING
    if found is None:
        return _nothing(arguments)
    rows = [(one.field, str(one.recorded), str(one.recomputed)) for one in found.differences]
    title = "equal, bit for bit" if found.equal else f"{len(rows)} fields differ"
    report(
        {**asdict(found), "equal": found.equal},
        as_json=arguments.json,
        people=lambda: print_table(("field", "recorded", "recomputed"), rows, title=title) if rows else print_lines([title]),
    )
    return GOOD if found.equal else FINDING


def _nothing(arguments: argparse.Namespace) -> int:
    print_error(f"no decision {arguments.id} of {arguments.tenant}")
    return FINDING


def _print(decision: Decision, plain: dict[str, Any]) -> None:
    print_lines([f"{decision.outcome}  score {decision.score:.4f}  {decision.decision_id}  by {decision.door}"])
    scores = ("model_score", "rules_score", "anomaly_score", "floor", "degraded", "late_event", "latency_ms")
    origins = ("model_sha256", "rule_set_hash", "catalogue_version", "code_version", "trace_id")
    print_table(("", ""), [(name, plain[name]) for name in (*scores, *origins) if plain[name] is not None])
    print_table(("rule", "mode", "score", "message"), [(rule.rule_id, rule.mode, rule.score, rule.message) for rule in decision.rules])
    if plain["extra_features"]:
        print_table(("feature beyond the catalogue", "value"), list(plain["extra_features"].items()))
    given = plain["contributions"] or {}
    strongest = sorted(given.items(), key=lambda item: -abs(item[1]))[:10]
    served = plain["features"]  # of another catalogue a list, and its features have numbers for names
    rows = [(name, served[name] if isinstance(served, dict) else served[int(name)], value) for name, value in strongest]
    print_table(("feature", "value", "contribution"), rows)
