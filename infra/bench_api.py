"""``bench api``: how many decisions a second one core of the API gives, and how long each takes at a fixed rate.

The load is open-loop from this process (``infra.http_load``).  First rates are offered, each higher than the last, until one is not
held: its 99th percentile is above the promise, or an answer is missing.  Then the latency at the promised rate.  Decisions a core are
counted over the CPU time of the API's process, so that what else this machine does is not counted.  Everything is on: identity,
limits, idempotency, all entities, model with explanations, rules, Kafka and the running job that applies what the API decided.

Beside it, in the same run and from the same Redis, Feast's own feature server answers what it can: numbers that were computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from api.identity import Role
from fraud.errors import Unavailable
from infra.api_access import Access
from infra.bench_basis import Traffic, machine
from infra.door import score_request
from infra.feature_server import feature_server
from infra.http_load import HttpLoad, HttpMeasured, request_bytes, send
from infra.percentiles import percentiles_ms
from infra.plan import Plan
from infra.records import load_records

__all__ = ["BENCH_TENANT", "ApiBenchOptions", "run_bench"]

BENCH_TENANT = "bench"
PROMISED_RATE, PROMISED_P99_MS = 300.0, 50.0
_WARM_UP_S = 20.0  # a job that has just started compiles for so long, on the same cores
_PEER_WARM_UP_S = 5.0
_WARM_UP_SHARE = 0.2
_GROWTH = 1.3
_PEER = "Feast's feature server, features only"


@dataclass(frozen=True, slots=True)
class ApiBenchOptions:
    """``seconds`` of each load; offered rates grow from ``first_rate`` to ``last_rate``."""

    seconds: float = 15.0
    first_rate: float = PROMISED_RATE
    last_rate: float = 2_000.0
    connections: int = 64
    seed: int = 7


@dataclass(frozen=True, slots=True)
class _Requests:
    """Payments as requests to the API, with a key of its own."""

    plan: Plan
    key: str
    traffic: Traffic

    def load(self, count: int) -> HttpLoad:
        address = urlsplit(self.plan.addresses.api_url)
        bodies = (score_request(tx).model_dump_json(exclude_none=True).encode() for tx in self.traffic.payments(count))
        requests = [request_bytes("/v1/score", body, {"X-API-Key": self.key}, address.netloc) for body in bodies]
        return HttpLoad(str(address.hostname), int(address.port or 0), requests)


def run_bench(plan: Plan, options: ApiBenchOptions, *, now_ms: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the bench on a stack that is up; returns what the command prints."""
    _, key = Access(plan.layout).key_file.create(BENCH_TENANT, "bench", Role.SERVICE)
    requests = _Requests(plan, key, Traffic.before(now_ms, options.seed))
    say(f"warming up for {_WARM_UP_S:g} s")
    send(requests.load(round(PROMISED_RATE * _WARM_UP_S)), rate=PROMISED_RATE, connections=options.connections)
    promised = _measure(plan, requests, PROMISED_RATE, options)
    say(f"{PROMISED_RATE:g} decisions/s: {promised['latency_ms']}")
    held = None
    for rate in _rates(options):
        offered = _measure(plan, requests, rate, options)
        say(f"{rate:,.0f} decisions/s offered: {'held' if offered['held'] else 'not held'}, p99 {offered['latency_ms'].get('p99')} ms")
        if not offered["held"]:
            break
        held = offered
    return {
        "decisions_per_s_per_core": promised["decisions_per_cpu_s"],
        "p99_ms": promised["latency_ms"].get("p99"),
        "features_p99_ms": promised["features_ms"].get("p99"),
        "held_decisions_per_s": None if held is None else held["rate"],
        "at_promised_rate": promised,
        "at_held_rate": held,
        "peers": [_peer(plan, options, say)],
        "decisions": requests.traffic.made,
        "seconds_a_rate": options.seconds,
        "warm_up_share_left_out": _WARM_UP_SHARE,
        "machine": machine(),
    }


def _rates(options: ApiBenchOptions) -> Sequence[float]:
    count = int(np.log(options.last_rate / options.first_rate) / np.log(_GROWTH)) + 1
    return [options.first_rate * _GROWTH**step for step in range(1, count + 1)]


def _peer(plan: Plan, options: ApiBenchOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Feast's own feature server at the promised rate, or why it was not measured."""
    try:
        with feature_server(plan) as server:
            send(server.load(round(PROMISED_RATE / 2 * _PEER_WARM_UP_S)), rate=PROMISED_RATE / 2, connections=options.connections)
            found = _offer(server.load(round(PROMISED_RATE * options.seconds)), server.cpu_s, PROMISED_RATE, options)
    except Unavailable as error:
        return {"name": _PEER, "error": error.detail}
    say(f"{_PEER}, {PROMISED_RATE:g} answers/s: {found['latency_ms']}")
    return {"name": _PEER, **{name: value for name, value in found.items() if name != "features_ms"}}


def _measure(plan: Plan, requests: _Requests, rate: float, options: ApiBenchOptions) -> dict[str, Any]:
    return _offer(requests.load(round(rate * options.seconds)), lambda: _cpu_s(plan), rate, options)


def _offer(load: HttpLoad, cpu_so_far_s: Callable[[], float], rate: float, options: ApiBenchOptions) -> dict[str, Any]:
    before_s = cpu_so_far_s()
    measured = send(load, rate=rate, connections=options.connections)
    cpu_s = cpu_so_far_s() - before_s
    answered = measured.statuses[200]
    warm = slice(int(_WARM_UP_SHARE * len(load.requests)), None)
    latency = percentiles_ms(1e3 * measured.latency_s[warm])
    return {
        "rate": round(rate),
        "held": is_held(measured, latency, rate),
        "latency_ms": latency,
        "features_ms": percentiles_ms(1e3 * measured.features_s[warm]),
        "statuses": {str(status): count for status, count in sorted(measured.statuses.items())},
        "unanswered": int(np.isnan(measured.latency_s).sum()),
        "decisions_per_cpu_s": round(answered / cpu_s) if cpu_s else None,
        "cpu_us_per_decision": round(1e6 * cpu_s / answered) if answered else None,
    }


def is_held(measured: HttpMeasured, latency_ms: dict[str, float], rate: float) -> bool:
    """Whether every request was answered with a decision, the 99th percentile kept the promise, and no queue was left at the end."""
    count = len(measured.latency_s)
    in_time = measured.seconds <= count / rate + PROMISED_P99_MS / 1e3
    return measured.statuses[200] == count and latency_ms["p99"] < PROMISED_P99_MS and in_time


def _cpu_s(plan: Plan) -> float:
    """CPU time of the API's process so far, its threads included."""
    times = psutil.Process(load_records(plan.layout)["api"].pid).cpu_times()
    return float(times.user + times.system)
