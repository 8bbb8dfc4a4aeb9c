"""``features backfill``: every feature over a file or over what was recorded, by the kernel that the stream runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD, MISUSE, add_command, add_group, existing_file, rate
from cli.output import print_error, print_table, progress_bar, report, stopwatch

if TYPE_CHECKING:
    from cli.arguments import Commands

__all__ = ["register"]

_DAY_MS = 86_400_000
_HANDBOOK_TIES = 58  # rows of the published file whose card has another transaction in the same second

_BACKFILL = """\
Compute every feature over history, without Flink: in file order for FILE, or with --ledger or --lake in the order that the ledger
recorded, which reproduces what the stream computed.  The lake keeps longer than Kafka.  Where it has deleted somebody who was erased, or
days that it keeps no longer, nothing can be computed again, and the command says so.  --check compares with the Parquet of an earlier
backfill or replay bit for bit, or with the Fraud Detection Handbook's published features within 1e-6.  Exit status 1 when rows differ.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    features = add_group(commands, "features", "features over history")
    backfill = add_command(features, "backfill", _backfill, "every feature over a file, the ledger or the lake", description=_BACKFILL)
    backfill.add_argument("file", type=existing_file, nargs="?", help="a CSV or Parquet file of transactions")
    recorded = backfill.add_mutually_exclusive_group()
    recorded.add_argument("--ledger", action="store_true", help="take the committed ledger of the running stack instead of a file")
    recorded.add_argument("--lake", action="store_true", help="take what the lake keeps of the ledger instead of a file")
    backfill.add_argument("--out", type=Path, default=None, help="write the features as Parquet")
    backfill.add_argument("--check", type=existing_file, default=None, metavar="PARQUET", help="compare with these")
    backfill.add_argument("--limit", type=int, default=None, metavar="N", help="the first N transactions only")
    backfill.add_argument("--label-delay-days", type=rate, default=7.0, metavar="D", help="how much later a label arrives (default 7)")
    backfill.add_argument("--no-labels", action="store_true", help="leave the labels out, as a replay without --labels does")
    backfill.add_argument("--mapping", default=None, help="name of a shipped mapping, or a TOML file")
    add_command(features, "list", _list, "the catalogue: every feature, its unit, what missing means, what is not exact")


def _backfill(arguments: argparse.Namespace) -> int:
    from infra.application import enricher_of  # noqa: PLC0415 - help works without any package
    from infra.features import backfill_file, backfill_recorded  # noqa: PLC0415
    from infra.history import event_history  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415
    from training.ledger_history import IncompleteLedger  # noqa: PLC0415
    from training.parity import NotComparable  # noqa: PLC0415

    from_record = arguments.ledger or arguments.lake
    if from_record == (arguments.file is not None):
        print_error("give either a file, --ledger or --lake")
        return MISUSE
    say, stack = stopwatch(), Stack()
    try:
        if from_record:
            source = event_history(stack.plan, from_lake=arguments.lake)
            with progress_bar("reading", source.count()) as on_read:
                result = backfill_recorded(source, out=arguments.out, check=arguments.check, say=say, on_read=on_read)
        else:
            result = backfill_file(
                arguments.file,
                out=arguments.out,
                check=arguments.check,
                limit=arguments.limit,
                label_delay_ms=None if arguments.no_labels else round(arguments.label_delay_days * _DAY_MS),
                enricher=enricher_of(stack),
                mapping=arguments.mapping,
                say=say,
            )
    except (IncompleteLedger, NotComparable) as error:
        print_error(str(error))
        return FINDING
    report(result, as_json=arguments.json, people=lambda: _print(result))
    return GOOD if _is_equal(result) else FINDING


def _is_equal(result: dict[str, Any]) -> bool:
    if result.get("differing_from_record"):
        return False
    differing = int(result.get("differing_rows", 0))
    if result.get("reference") == "handbook":
        return differing <= _HANDBOOK_TIES and differing == int(result["rows_in_ties"])
    return differing == 0


def _print(result: dict[str, Any]) -> None:
    print_table(("", ""), [(name.replace("_", " "), value) for name, value in result.items() if value not in (None, [], {})])


def _list(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict  # noqa: PLC0415

    from fraud.catalogue import CATALOGUE  # noqa: PLC0415

    payload = {"version": CATALOGUE.version, "features": [asdict(entry) for entry in CATALOGUE.entries]}
    rows = [(entry.name, entry.unit, entry.doc, entry.missing, entry.bound) for entry in CATALOGUE.entries]
    report(payload, as_json=arguments.json, people=lambda: print_table(("feature", "unit", "what", "missing when", "not exact"), rows))
    return GOOD
