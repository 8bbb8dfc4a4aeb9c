"""``demo``, ``replay`` and ``generate``: traffic through the system, or into a file."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD, add_command, existing_file, rate, share
from cli.output import print_lines, print_table, progress_bar, report, stopwatch

if TYPE_CHECKING:
    from cli.arguments import Commands
    from generator.driver import Run

__all__ = ["register"]

_DAY_MS = 86_400_000

_DEMO = """\
Start what is not running, stream generated traffic with seven kinds of fraud for a minute, and report what the committed ledger
says: decisions, latency, recall and time to detect per scenario, losses, duplicates, and mismatches between what the stream
computed and what the backfill computes over the same events.
"""
_REPLAY = """\
Send a CSV or Parquet file of transactions through Kafka and the running job.  The columns are recognised (canonical names, the
Fraud Detection Handbook, Sparkov) or mapped by a TOML file.  With --labels each fraud's label follows as an event of its own, when
the file's clock reaches its time plus the delay.
"""


def register(commands: Commands) -> None:
    """Add the commands."""
    demo = add_command(commands, "demo", _demo, "a minute of traffic through the whole system, and what came of it", description=_DEMO)
    demo.add_argument("--seconds", type=rate, default=60.0, help="length of the traffic (default 60)")
    demo.add_argument("--rate", type=rate, default=500.0, help="events a second (default 500)")
    demo.add_argument("--api-share", type=share, default=0.1, metavar="S", help="part of it that comes through the API (default 0.1)")
    demo.add_argument("--seed", type=int, default=None, help="seed of the traffic (default: the one the first model's population has)")
    replay = add_command(commands, "replay", _replay, "a history file through Kafka and the running job", description=_REPLAY)
    replay.add_argument("file", type=existing_file)
    replay.add_argument("--rate", type=rate, default=None, metavar="N", help="events a second (default: as fast as it goes)")
    replay.add_argument("--limit", type=int, default=None, metavar="N", help="the first N transactions only")
    replay.add_argument("--labels", action="store_true", help="send the labels too, as delayed events")
    replay.add_argument("--label-delay-days", type=rate, default=7.0, metavar="D", help="how much later a label arrives (default 7)")
    replay.add_argument("--decisions", type=Path, default=None, metavar="OUT", help="write the committed decisions as Parquet")
    replay.add_argument("--tenant", default=None, help="tenant of the events (default: the file's name, if the file has no tenants)")
    replay.add_argument("--mapping", default=None, help="name of a shipped mapping, or a TOML file (default: recognise the columns)")
    generate = add_command(commands, "generate", _generate, "write generated, labelled transactions to a file")
    generate.add_argument("out", type=Path, help="a .parquet or .csv file")
    generate.add_argument("--rows", type=int, default=100_000)
    generate.add_argument("--seed", type=int, default=1)
    generate.add_argument("--days", type=rate, default=30.0, help="length of the history, which ends now (default 30)")
    generate.add_argument("--fraud-rate", type=float, default=0.02)


def _demo(arguments: argparse.Namespace) -> int:
    from infra.application import bring_up, codec_of  # noqa: PLC0415 - help works without any package
    from infra.demo import DemoOptions, run_demo  # noqa: PLC0415
    from infra.first_model import DEMO_SEED  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    say = stopwatch()
    stack = Stack()
    bring_up(stack, say)
    options = DemoOptions(arguments.seconds, arguments.rate, arguments.api_share, DEMO_SEED if arguments.seed is None else arguments.seed)
    live = _Live(say)
    result = run_demo(stack.plan, codec_of(stack.plan), options, say=say, on_progress=live.show)
    report(result, as_json=arguments.json, people=lambda: _print_demo(result))
    return GOOD if result["lost"] == result["duplicates"] == result["feature_mismatches"] == result["api"]["fresh_skew"] == 0 else FINDING


class _Live:
    """A line every two seconds: how far, how fast, how late, what was decided."""

    def __init__(self, say: Any) -> None:
        self._say = say
        self._next_s = 0.0
        self._before = (0, 0.0)

    def show(self, run: Run) -> None:
        from infra.percentiles import percentiles_ms  # noqa: PLC0415

        if run.seconds < self._next_s:
            return
        self._next_s = run.seconds + 2.0
        answered, seconds = self._before
        rate_now = (run.answered - answered) / max(run.seconds - seconds, 1e-9)
        recent = percentiles_ms(run.latencies_ms[answered:])
        self._before = (run.answered, run.seconds)
        decided = "  ".join(f"{outcome} {count:,}" for outcome, count in sorted(run.outcomes.items()))
        latency = f"p50 {recent['p50']:.0f} ms  p99 {recent['p99']:.0f} ms" if recent else "no answer yet"
        self._say(f"{run.sent:>9,} sent  {run.answered:>9,} decided  {rate_now:>7,.0f}/s  {latency}  {decided}")


def _print_demo(result: dict[str, Any]) -> None:
    latency = result["latency_ms"]
    print_table(
        ("", ""),
        [
            ("events", f"{result['events']:,} and {result['labels']:,} labels"),
            ("rate", f"{result['rate']:,.0f} decisions/s"),
            ("latency, schedule to decision", "  ".join(f"{name} {value:g} ms" for name, value in latency.items())),
            ("decisions", "  ".join(f"{outcome} {count:,}" for outcome, count in result["outcomes"].items())),
            ("false positives", f"{result['false_positive_rate']:.2%} of legitimate transactions not allowed"),
            ("lost / duplicate in the ledger", f"{result['lost']} / {result['duplicates']}"),
            ("features that differ, stream against backfill", f"{result['feature_mismatches']} of {result['recomputed_events']:,} events"),
        ],
        title="What the ledger says",
    )
    print_lines([""])
    print_table(("", ""), _api_rows(result["api"]), title="The synchronous door: POST /v1/score")
    print_lines([""])
    print_table(
        ("scenario", "transactions", "recall", "instances", "detected", "median time to detect"),
        [
            (
                name,
                part["transactions"],
                f"{part['recall']:.1%}",
                part["instances"],
                part["instances_detected"],
                "-" if part["median_time_to_detect_s"] is None else f"{part['median_time_to_detect_s']:.2f} s",
            )
            for name, part in result["scenarios"].items()
        ],
        title="Fraud by scenario (generated data: it shows that the parts work together, not how well a model does on yours)",
    )
    if (asked := result["analytics"]) is not None:
        print_lines([""])
        print_table(asked["columns"], asked["rows"], title=f"An analyst asks ClickHouse: query --saved {asked['query']}")
    print_lines(["", *(f"  {name:<16} {address}" for name, address in result["addresses"].items())])


def _api_rows(api: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("answered / refused", f"{api['answered']:,} / {sum(api['refused'].values())}"),
        ("latency, schedule to answer", "  ".join(f"{name} {value:g} ms" for name, value in api["latency_ms"].items()) or "-"),
        ("skew of its scores to the stream's, where it had read all", f"{api['fresh_skew']:g} over {api['fresh']:,} events"),
        ("the same where the store was behind", f"{api['stale_differing']} of {api['stale']:,} differ, by {api['stale_skew']:.3g} at most"),
        ("decided by the stream first", f"{api['overtaken']}"),
    ]


def _replay(arguments: argparse.Namespace) -> int:
    from infra.application import bring_up, codec_of  # noqa: PLC0415
    from infra.replay import read_for_replay, replay  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    say = stopwatch()
    frame = read_for_replay(arguments.file, arguments.mapping, limit=arguments.limit, tenant=arguments.tenant)
    say(f"read {frame.height:,} transactions from {arguments.file}")
    stack = Stack()
    bring_up(stack, say)
    with progress_bar("decided", frame.height) as sent, progress_bar("committed", frame.height) as committed:
        result = replay(
            stack.addresses.bootstrap_servers,
            codec_of(stack.plan),
            frame,
            rate=arguments.rate,
            with_labels=arguments.labels,
            label_delay_ms=round(arguments.label_delay_days * _DAY_MS),
            decisions=arguments.decisions,
            on_sent=lambda run: sent(run.answered),
            on_committed=committed,
        )
    result = {"file": str(arguments.file), **result}
    report(result, as_json=arguments.json, people=lambda: _print_mapping(result))
    return GOOD if result["lost"] == result["duplicates"] == 0 else FINDING


def _generate(arguments: argparse.Namespace) -> int:
    from generator.generate import generate, summary  # noqa: PLC0415
    from serving.clock import now_ms  # noqa: PLC0415

    began = time.perf_counter()
    length_ms = round(arguments.days * _DAY_MS)
    start_ms = now_ms() - length_ms
    frame = generate(arguments.rows, seed=arguments.seed, start_ms=start_ms, duration_ms=length_ms, fraud_rate=arguments.fraud_rate)
    seconds = time.perf_counter() - began
    if arguments.out.suffix == ".csv":
        frame.write_csv(arguments.out)
    else:
        frame.write_parquet(arguments.out)
    counted = summary(frame)
    result = {
        "out": str(arguments.out),
        "rows": counted.rows,
        "fraud": counted.fraud,
        "scenarios": dict(counted.scenarios),
        "seconds": round(seconds, 2),
        "rows_per_s": round(counted.rows / seconds),
    }
    report(result, as_json=arguments.json, people=lambda: _print_mapping(result))
    return GOOD


def _print_mapping(result: dict[str, Any]) -> None:
    print_table(("", ""), [(name.replace("_", " "), value) for name, value in result.items() if value not in (None, [], {})])
