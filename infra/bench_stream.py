"""``bench stream``: how many events a second the running job takes, and how long each waits for its answer at given rates.

The load is open-loop and counts from the schedule, see ``infra.load``.  First a backlog shows how fast the job works when it never
waits for input; then rates below that are offered until one is *held*: its last third waits no longer than its second third by
more than a half, and not a second.  Everything is on: all entities, model, rules, online store, RocksDB, both lanes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from infra.bench_basis import Traffic, machine
from infra.load import Measured, prepare, send
from infra.percentiles import percentiles_ms
from infra.plan import Plan
from infra.shares import STREAM, take
from serving.codec import Codec

__all__ = ["BenchOptions", "is_held", "run_bench", "working_rate"]

_GROWTH = 1.5
_GROWTH_ALLOWED_S = 0.1  # of waiting more: below it growth is noise
_LONGEST_WAIT_S = 1.0  # a queue that filled at the start and stays is a queue
_WARM_UP_SHARE = 0.2
_FRACTIONS = (0.95, 0.85, 0.75, 0.6, 0.45, 0.3)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """``rates`` in events/s are measured for ``seconds`` each; ``backlog`` events are sent at once to find the working rate."""

    rates: Sequence[float] = (500.0, 1_000.0)
    seconds: float = 30.0
    backlog: int = 60_000
    seed: int = 7


def run_bench(plan: Plan, codec: Codec, options: BenchOptions, *, now_ms: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the bench on a stack that is up; returns what the command prints.

    Raises:
        Unavailable: Kafka does not answer.
    """
    traffic = Traffic.before(now_ms, options.seed)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_join_the_stream) as sender:

        def offer(events: int, rate: float | None) -> Measured:
            load = prepare(traffic.payments(events), codec)
            return sender.submit(send, plan.addresses.bootstrap_servers, load, rate=rate).result()

        figures = _measure(offer, options, say)
    return figures | {
        "events": traffic.made,
        "seconds_a_rate": options.seconds,
        "warm_up_share_left_out": _WARM_UP_SHARE,
        "batch_ms": plan.settings.batch_ms,
        "checkpoint_interval_ms": plan.settings.checkpoint_interval_ms,
        "taskmanagers": plan.settings.taskmanagers,
        "shards": plan.settings.shards,
        "analytics": plan.addresses.clickhouse_url is not None,
        "machine": machine(),
    }


def _join_the_stream() -> None:
    """The load shares the processor with the stream as an equal: ahead of it, it would be a neighbour that no cluster has."""
    os.setsid()
    take(STREAM)


def _measure(offer: Callable[[int, float | None], Measured], options: BenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"warming up and working off a backlog of {options.backlog:,}")
    offer(options.backlog // 2, None)
    backlog = offer(options.backlog, None)
    working = working_rate(backlog)
    say(f"{working:,.0f} events/s while there is a backlog")
    sustained = None
    for fraction in _FRACTIONS:
        rate = working * fraction
        measured = offer(round(rate * options.seconds), rate)
        held = is_held(measured)
        say(f"{rate:,.0f} events/s offered: {'held' if held else 'a queue grows'}")
        if held:
            sustained = {"rate": round(rate), **_lanes(measured)}
            break
    latencies = []
    for rate in options.rates:
        measured = offer(round(rate * options.seconds), rate)
        latencies.append({"rate": rate, "held": is_held(measured), **_lanes(measured)})
        say(f"{rate:,.0f} events/s: fast lane {latencies[-1]['fast']}")
    return {
        "sustained_events_per_s": None if sustained is None else sustained["rate"],
        "backlog_events_per_s": round(working),
        "at_sustained_rate": sustained,
        "latency_ms": latencies,
    }


def working_rate(measured: Measured) -> float:
    """Events/s between the first tenth and the last tenth of the answers."""
    answered_s = measured.answered_s()
    if len(answered_s) < 2:
        return 0.0
    low, high = len(answered_s) // 10, len(answered_s) - 1 - len(answered_s) // 10
    return float((high - low) / max(answered_s[high] - answered_s[low], 1e-9))


def is_held(measured: Measured) -> bool:
    """Whether every event was answered, and the median wait did not grow from the second third of the load to the last, nor to 1 s."""
    latency_s = measured.latency_s["fast"]
    if measured.unanswered("fast") or not len(latency_s):
        return False
    third = len(latency_s) // 3
    before, after = np.median(latency_s[third : 2 * third]), np.median(latency_s[2 * third :])
    return bool(after <= _LONGEST_WAIT_S and after <= max(before * _GROWTH, before + _GROWTH_ALLOWED_S))


def _lanes(measured: Measured) -> dict[str, Any]:
    warm = measured.due_s >= _WARM_UP_SHARE * measured.due_s[-1]
    lanes: dict[str, Any] = {lane: percentiles_ms(1e3 * latency_s[warm]) for lane, latency_s in measured.latency_s.items()}
    return lanes | {"unanswered": measured.unanswered("fast"), "unanswered_in_ledger": measured.unanswered("ledger")}
