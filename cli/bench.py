"""``bench``: measurements of the running system on this machine, each a report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cli.arguments import FINDING, GOOD, MISUSE, add_command, add_group, rate
from cli.output import print_error, print_lines, print_table, report, stopwatch

if TYPE_CHECKING:
    from cli.arguments import Commands
    from generator.driver import Run

__all__ = ["is_right", "register"]

_STREAM = """\
Find the rate that the running job holds, and the latency of its two lanes at fixed rates: open-loop load from a process of its own, counted
from when each event was due.  Starts what is not running.  Then the same job in PyFlink's thread mode and in its process mode, and with
--peers on other engines (see `bench peers`), work off one topic on a stack of their own.
"""
_FEATURES = """\
What one event costs the parts that stream and request share (kernel, state encoding, Avro, model, rules), each alone in this process.
Needs a model (the first `up` trains one), and nothing that runs.
"""
_API = """\
Find the rate that one API process holds, and the latency at 300 decisions/s: open-loop load from this process, counted from when each
request was due, with the running job behind it.  Starts what is not running.  Exit status 1 when the promise is not kept.
"""
_BACKTEST = """\
How long `rules backtest` takes, with a window that nobody has computed, over a generated ledger: reading, recomputing, reproducing to the
bit, trying the draft.  A broker's part is not in it.  Needs a model (the first `up` trains one), and nothing that runs.  Exit status 1
when production is not reproduced, or slower than a million decisions in 30 s.
"""
_PEERS = """\
Have bytewax, Quix Streams, Spark structured streaming and our own job work off the same prepared topic, one after the other on two
cores, with the same features, model and rules, and check every feature of every decision.  The first use installs the peers into an
environment of their own under the state folder (1.5 GB).  Exit status 1 when a program failed, lost an event or got a feature wrong.
"""
_SINK = """\
How many rows a second the sink brings from the ledger into ClickHouse, and how old a decision is there at a steady rate, on a stack of
its own without a job.  Exit status 1 below 20,000 rows/s or above 5 s.
"""
_SOAK = """\
Load at a rate for some minutes while a server (TaskManager, JobManager, broker, in seeded random turn) is killed with SIGKILL every
so many seconds.  At the end the oracle compares what the broker acknowledged with what the ledger committed: lost, duplicate,
phantom, gap, diff, inversion.  Exit status 1 unless all are 0 and every kill was recovered from.
"""

_PROMISED_ROWS_PER_S, _PROMISED_DELAY_S = 20_000, 5.0
_PROMISED_BACKTEST_PER_S = 1_000_000 / 30


def register(commands: Commands) -> None:
    """Add the commands."""
    bench = add_group(commands, "bench", "measure on this machine")
    api = add_command(bench, "api", _api, "decisions a second and their latency through POST /v1/score", description=_API)
    api.add_argument("--seconds", type=rate, default=15.0, help="length of each load (default 15)")
    stream = add_command(bench, "stream", _stream, "throughput and latency of the running job", description=_STREAM)
    stream.add_argument("--rates", default="500,1000", metavar="LIST", help="events/s to measure the latency at (default 500,1000)")
    stream.add_argument("--seconds", type=rate, default=30.0, help="length of each load (default 30)")
    stream.add_argument("--backlog", type=int, default=60_000, metavar="N", help="events sent at once (default 60000)")
    features = add_command(bench, "features", _features, "cost an event of kernel, inference, Avro and states", description=_FEATURES)
    features.add_argument("--events", type=int, default=20_000, metavar="N", help="transactions to measure over (default 20000)")
    backtest = add_command(bench, "backtest", _backtest, "decisions a second through rules backtest", description=_BACKTEST)
    backtest.add_argument("--events", type=int, default=100_000, metavar="N", help="decisions of the ledger (default 100000)")
    stream.add_argument(
        "--mode-events",
        type=int,
        default=20_000,
        metavar="N",
        help="to compare with PyFlink's process mode, 0 for none (default 20000)",
    )
    stream.add_argument("--peers", action="store_true", help="compare with bytewax, Quix Streams and Spark in the same run, too")
    peers = add_command(bench, "peers", _peers, "the same job on bytewax, Quix Streams and Spark, side by side", description=_PEERS)
    peers.add_argument("--events", type=int, default=40_000, metavar="N", help="transactions in the topic (default 40000)")
    peers.add_argument("--only", default="", metavar="NAMES", help="some of bytewax,quix,spark,fraudguard,fraudguard-process-mode")
    sink = add_command(bench, "sink", _sink, "rows a second from the ledger into ClickHouse, and their delay", description=_SINK)
    sink.add_argument("--backlog", type=int, default=200_000, metavar="N", help="decisions at once (default 200000)")
    sink.add_argument("--rate", type=rate, default=1_000.0, help="decisions a second to measure the delay at (default 1000)")
    sink.add_argument("--seconds", type=rate, default=20.0, help="length of that load (default 20)")
    soak = add_command(bench, "soak", _soak, "load for minutes with a kill every so often, and the oracle's verdict", description=_SOAK)
    soak.add_argument("--minutes", type=rate, default=15.0, metavar="N", help="length of the load (default 15)")
    soak.add_argument("--kill-every", type=float, default=60.0, metavar="S", help="seconds between kills, 0 for none (default 60)")
    soak.add_argument("--rate", type=rate, default=500.0, help="events a second (default 500)")
    soak.add_argument("--seed", type=int, default=1, help="of the traffic and of the order of the kills")


def _stream(arguments: argparse.Namespace) -> int:
    from infra.application import bring_up, codec_of  # noqa: PLC0415 - help works without any package
    from infra.bench_peers import OUR_MODES, PEERS, run  # noqa: PLC0415
    from infra.bench_stream import BenchOptions, run_bench  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415
    from serving.clock import now_ms  # noqa: PLC0415

    try:
        rates = [float(text) for text in arguments.rates.split(",")]
    except ValueError:
        print_error("--rates is a list of numbers: 500,1000")
        return MISUSE
    if min(rates) <= 0 or arguments.backlog < 1_000:
        print_error("rates are above 0 and --backlog is at least 1000")
        return MISUSE
    if arguments.peers and not arguments.mode_events:
        print_error("--peers needs --mode-events above 0: they all work off the same events")
        return MISUSE
    say = stopwatch()
    stack = Stack()
    bring_up(stack, say)
    options = BenchOptions(rates, arguments.seconds, arguments.backlog)
    result = run_bench(stack.plan, codec_of(stack.plan), options, now_ms=now_ms(), say=say)
    if arguments.mode_events:
        say("the same job in PyFlink's thread mode and in its process mode, on a stack of its own")
        compared = run(events=arguments.mode_events, only=[] if arguments.peers else list(OUR_MODES), say=say)
        found = compared["results"]
        result |= {"ratio_to_process_mode": compared["ratio_to_process_mode"], "modes": {name: found[name] for name in OUR_MODES}}
        if arguments.peers:
            result["peers"] = {name: found[name] for name in PEERS}
    report(result, as_json=arguments.json, people=lambda: _print_stream(result))
    return GOOD if result["sustained_events_per_s"] else FINDING


def _print_stream(result: dict[str, Any]) -> None:
    print_lines([f"{result['backlog_events_per_s']:,} events/s with a backlog, {result['sustained_events_per_s'] or 0:,} sustained"])
    places = ("p50", "p95", "p99", "p99.9", "max")
    rows = [(one["rate"], lane, *(one[lane].get(place) for place in places)) for one in result["latency_ms"] for lane in ("fast", "ledger")]
    print_table(("events/s", "lane", *(f"{place} ms" for place in places)), rows)
    compared = result.get("modes", {}) | result.get("peers", {})
    if compared:
        _print_compared(compared)


def _features(arguments: argparse.Namespace) -> int:
    from infra import bench_features  # noqa: PLC0415 - help works without any package
    from infra.bench_basis import model_and_enricher  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415
    from serving.clock import now_ms  # noqa: PLC0415

    if arguments.events < 1_000:
        print_error("--events is at least 1000")
        return MISUSE
    say = stopwatch()
    model, enricher = model_and_enricher(Stack(), say)
    start_ms = now_ms() - 86_400_000
    result = bench_features.run(model, enricher, events=arguments.events, start_ms=start_ms, say=say)
    report(result, as_json=arguments.json, people=lambda: _print_features(result))
    return GOOD


def _print_features(result: dict[str, Any]) -> None:
    parts = {"": result, "state": result["state"], "avro": result["avro"], "inference": result["inference"]}
    rows = [
        (part, name.replace("_us", "").replace("_", " "), value)
        for part, measured in parts.items()
        for name, value in measured.items()
        if "_us" in name
    ]
    print_table(("part", "CPU us", ""), rows)


def _backtest(arguments: argparse.Namespace) -> int:
    from infra import bench_backtest  # noqa: PLC0415 - help works without any package
    from infra.bench_basis import model_and_enricher  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415
    from serving.clock import now_ms  # noqa: PLC0415

    if arguments.events < 1_000:
        print_error("--events is at least 1000")
        return MISUSE
    say, stack = stopwatch(), Stack()
    model, enricher = model_and_enricher(stack, say)
    home = stack.layout.home
    result = bench_backtest.run(model, enricher, events=arguments.events, start_ms=now_ms(), folder=home, say=say)
    report(result, as_json=arguments.json, people=lambda: _print_backtest(result))
    return GOOD if result["reproduced"] and result["decisions_per_s"] >= _PROMISED_BACKTEST_PER_S else FINDING


def _print_backtest(result: dict[str, Any]) -> None:
    what = "all reproduced to the bit" if result["reproduced"] else "NOT all reproduced"
    print_lines([f"{result['decisions']:,} decisions in {result['seconds']} s, {result['decisions_per_s']:,} a second, {what}"])
    rows = [(name, one["seconds"], one["cpu_us_per_decision"]) for name, one in result["stages"].items()]
    print_table(("stage", "s", "CPU us a decision"), rows)


def _api(arguments: argparse.Namespace) -> int:
    from infra.application import bring_up  # noqa: PLC0415 - help works without any package
    from infra.bench_api import PROMISED_P99_MS, PROMISED_RATE, ApiBenchOptions, run_bench  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415
    from serving.clock import now_ms  # noqa: PLC0415

    say = stopwatch()
    stack = Stack()
    bring_up(stack, say)
    result = run_bench(stack.plan, ApiBenchOptions(arguments.seconds), now_ms=now_ms(), say=say)
    report(result, as_json=arguments.json, people=lambda: _print_api(result))
    kept = (result["decisions_per_s_per_core"] or 0) >= PROMISED_RATE and (result["p99_ms"] or 1e9) < PROMISED_P99_MS
    return GOOD if kept else FINDING


def _print_api(result: dict[str, Any]) -> None:
    print_lines([f"{result['decisions_per_s_per_core']:,} decisions/s a core, {result['held_decisions_per_s'] or 0:,} held by one process"])
    places = ("p50", "p95", "p99", "p99.9", "max")
    rows = [
        (one["rate"], what, *(one[f"{what}_ms"].get(place) for place in places))
        for one in (result["at_promised_rate"], result["at_held_rate"])
        if one is not None
        for what in ("latency", "features")
    ]
    rows += [
        (peer["rate"], f"{peer['name']}: latency", *(peer["latency_ms"].get(place) for place in places))
        for peer in result["peers"]
        if "error" not in peer
    ]
    print_table(("a second", "", *(f"{place} ms" for place in places)), rows)
    print_lines([f"{peer['name']}: {peer['error']}" for peer in result["peers"] if "error" in peer])


def _peers(arguments: argparse.Namespace) -> int:
    from infra.bench_peers import OUR_MODES, PEERS, run  # noqa: PLC0415 - help works without any package

    only = [name for name in arguments.only.split(",") if name]
    unknown = [name for name in only if name not in {*PEERS, *OUR_MODES}]
    if unknown or arguments.events < 1:
        print_error(f"no peer {', '.join(unknown)}" if unknown else "--events is at least 1")
        return MISUSE
    result = run(events=arguments.events, only=only, say=stopwatch())
    report(result, as_json=arguments.json, people=lambda: _print_compared(result["results"]))
    return GOOD if all(is_right(one, arguments.events) for one in result["results"].values()) else FINDING


def is_right(result: dict[str, Any], events: int) -> bool:
    """Whether a program decided every event once or more, with the features that the backfill computes."""
    wrong = result.get("differing_rows", 1) or result.get("differing_card_rows_in_file_order", 1)
    return result["end"] == "drained" and result["decided"] == events and not wrong


def _print_compared(results: dict[str, dict[str, Any]]) -> None:
    rates = ("events_per_s", "events_per_s_last_80_percent", "startup_s", "cpu_us_per_event", "peak_rss_mb")
    names = ("end", *rates, "decided", "repeated", "differing_rows", "guarantee")
    rows = [(name, *(one.get(key) for key in names)) for name, one in results.items()]
    print_table(("", *(name.replace("_", " ") for name in names)), rows)


def _sink(arguments: argparse.Namespace) -> int:
    from infra.bench_sink import SinkBenchOptions, run  # noqa: PLC0415 - help works without any package
    from infra.stack import Stack  # noqa: PLC0415

    if arguments.backlog < 1_000:
        print_error("--backlog is at least 1000")
        return MISUSE
    result = run(Stack().layout.home, SinkBenchOptions(arguments.backlog, arguments.rate, arguments.seconds), stopwatch())
    report(result, as_json=arguments.json, people=lambda: _print_sink(result))
    return GOOD if result["rows_per_s"] >= _PROMISED_ROWS_PER_S and result["delay_s"]["max"] <= _PROMISED_DELAY_S else FINDING


def _print_sink(result: dict[str, Any]) -> None:
    rows, delay_s = result["rows_per_decision"], result["delay_s"]
    work = f"{result['backlog_decisions']:,} decisions of {rows} rows in {result['seconds']} s"
    delay = f"one is in ClickHouse after {delay_s['median']} s, at most {delay_s['max']} s"
    print_lines([f"{result['rows_per_s']:,} rows/s: {work}", f"at {result['rate']:,.0f} decisions/s {delay}"])


def _soak(arguments: argparse.Namespace) -> int:
    from infra.application import bring_up  # noqa: PLC0415 - help works without any package
    from infra.soak import SoakOptions, run_soak  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    say = stopwatch()
    stack = Stack()
    bring_up(stack, say)
    options = SoakOptions(arguments.minutes, arguments.kill_every, arguments.rate, arguments.seed)
    shown_s = 0.0

    def show(run: Run) -> None:
        nonlocal shown_s
        if run.seconds - shown_s >= 10.0:
            shown_s = run.seconds
            say(f"{run.sent:>9,} sent  {run.answered:>9,} decided")

    result = run_soak(stack.plan, options, say=say, on_progress=show)
    report(result, as_json=arguments.json, people=lambda: _print_soak(result))
    return GOOD if result["clean"] else FINDING


def _print_soak(result: dict[str, Any]) -> None:
    plain = [
        (name.replace("_", " "), value) for name, value in result.items() if value not in ({}, []) and not isinstance(value, (dict, list))
    ]
    print_table(("", ""), plain)
    print_lines([""])
    print_table(("killed", "after s", "recovery s"), [tuple(kill.values()) for kill in result["recovery_s"]])
