"""Load at a rate for minutes while a server is killed every so many seconds, and the oracle's verdict at the end.

Composition only: traffic and evidence are ``infra.campaign``'s, kills ``infra.nemesis``', the verdict ``infra.oracle``'s.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from fraud.errors import Unavailable
from generator.driver import Run
from infra import nemesis, scoring_job
from infra.campaign import Campaign, endless
from infra.percentiles import percentiles_ms
from infra.plan import Plan
from infra.probes import read_json_url
from infra.records import load_records
from serving.clock import now_ms

__all__ = ["SoakOptions", "run_soak"]

_SAMPLE_S = 5.0
_FIRST_KILL_S = 10.0  # later than the first checkpoints, and short soaks get a kill too
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """``minutes`` of load at ``rate`` events/s, a kill every ``kill_every_s`` (0: none)."""

    minutes: float
    kill_every_s: float
    rate: float = 500.0
    seed: int = 1


@dataclass(slots=True)
class _Kill:
    kind: str
    server: str
    at_s: float
    moment_ms: float
    recovery_s: float | None = None


def run_soak(plan: Plan, options: SoakOptions, *, say: Say, on_progress: Callable[[Run], None] = lambda _run: None) -> dict[str, Any]:
    """Run the soak on a system that is up; the keys of the result are those of ``bench soak --json``.

    Raises:
        Unavailable: a server did not come back within two minutes of a kill.
    """
    start_ms = now_ms()
    tenant = f"soak-{start_ms}"
    ends_s = time.monotonic() + options.minutes * 60.0
    with Campaign(plan, plan.layout.run, tenant) as campaign:
        murderer = _Murderer(plan, options, ends_s, say)
        gauge = _Gauge(plan)
        murderer.start()
        gauge.start()
        traffic = endless(
            tenant,
            options.rate,
            seed=options.seed,
            start_ms=start_ms,
            is_over=lambda: time.monotonic() >= ends_s,
            users=10_000,
            merchants=1_000,
        )
        try:
            run = campaign.drive(traffic, on_progress=on_progress)
        finally:
            murderer.stop()
            gauge.stop()
        say(f"sent {run.sent:,}; waiting for the ledger")
        campaign.settle()
        for kill in murderer.kills:
            kill.recovery_s = campaign.tail.visible_after_s(kill.moment_ms)
        say("judging: every feature and score of the ledger is computed again")
        verdict = campaign.verdict()
        recoveries = [round(kill.recovery_s, 2) for kill in murderer.kills if kill.recovery_s is not None]
        return {
            "minutes": options.minutes,
            "kill_every_s": options.kill_every_s,
            "rate": options.rate,
            "seed": options.seed,
            **verdict.as_dict(),
            "clean": verdict.is_clean and murderer.failure is None and len(recoveries) == len(murderer.kills),
            "failure": murderer.failure,
            "aborted_rows": campaign.aborted_rows(),
            "fast_lane_repeats": campaign.fast_lane_repeats(),
            "kills": dict(Counter(kill.kind for kill in murderer.kills)),
            "recovery_s": [
                {"server": kill.server, "at_s": round(kill.at_s, 1), "recovery_s": kill.recovery_s and round(kill.recovery_s, 2)}
                for kill in murderer.kills
            ],
            "recovery_s_worst": max(recoveries, default=None),
            "latency_ms": percentiles_ms(run.latencies_ms),
            "growth": gauge.growth(),
        }


class _Murderer(threading.Thread):
    """Kills a server of each kind in turn, in a seeded order that changes every round."""

    def __init__(self, plan: Plan, options: SoakOptions, ends_s: float, say: Say) -> None:
        super().__init__(name="murderer", daemon=True)
        self.kills: list[_Kill] = []
        self.failure: str | None = None
        self._plan = plan
        self._every_s = options.kill_every_s
        self._ends_s = ends_s
        self._say = say
        self._chance = random.Random(options.seed)  # noqa: S311 - repeatable on purpose
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Wait for a kill that is going on."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Kill on schedule."""
        if not self._every_s:
            return
        began_s = time.monotonic()
        due_s = began_s + min(_FIRST_KILL_S, self._every_s)
        round_of: list[str] = []
        while due_s < self._ends_s and not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            if not round_of:
                round_of = self._chance.sample(["taskmanager", "jobmanager", "kafka"], 3)
            kind = round_of.pop()
            server = f"taskmanager-{self._chance.randint(1, self._plan.settings.taskmanagers)}" if kind == "taskmanager" else kind
            try:
                _, moment_ms = nemesis.kill(self._plan.layout, server)
            except Unavailable as error:
                self.failure = str(error)
                return
            self.kills.append(_Kill(kind, server, time.monotonic() - began_s, moment_ms))
            self._say(f"killed {server}")
            # at another place of the checkpoint cycle each time
            due_s = max(due_s + self._every_s, time.monotonic()) + self._chance.uniform(-0.5, 0.5)


@dataclass(slots=True)
class _Series:
    at_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, at_s: float, value: float) -> None:
        self.at_s.append(at_s)
        self.values.append(value)

    def summary(self) -> dict[str, float]:
        """First, last and largest value, and the slope of the least-squares line in % of the mean an hour."""
        mean = float(np.mean(self.values))
        slope = float(np.polyfit(self.at_s, self.values, 1)[0]) if len(self.values) > 2 else 0.0
        return {
            "first": self.values[0],
            "last": self.values[-1],
            "max": max(self.values),
            "slope_percent_per_hour": round(100.0 * slope * 3600.0 / mean, 2) if mean else 0.0,
        }


class _Gauge(threading.Thread):
    """Memory, file descriptors and threads of every server, over its restarts, and the size of the checkpoints."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(name="gauge", daemon=True)
        self._plan = plan
        self._series: dict[str, dict[str, _Series]] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Sample."""
        began_s = time.monotonic()
        while not self._stopping.wait(_SAMPLE_S):
            at_s = time.monotonic() - began_s
            for name, record in load_records(self._plan.layout).items():
                if record.pid is not None and record.phase == "ready":
                    self._sample(name, record.pid, at_s)
            size = _checkpoint_bytes(self._plan)
            if size is not None:
                self._add("checkpoint", "mb", at_s, size / 1e6)

    def growth(self) -> dict[str, dict[str, dict[str, float]]]:
        """Summary of every series by server and measure."""
        return {
            name: {measure: series.summary() for measure, series in measures.items()} for name, measures in sorted(self._series.items())
        }

    def _sample(self, name: str, pid: int, at_s: float) -> None:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                values = {"rss_mb": process.memory_info().rss / 1e6, "fds": process.num_fds(), "threads": process.num_threads()}
        except psutil.Error:
            return  # it has just been killed
        for measure, value in values.items():
            self._add(name, measure, at_s, round(value, 1))

    def _add(self, name: str, measure: str, at_s: float, value: float) -> None:
        self._series.setdefault(name, {}).setdefault(measure, _Series()).add(at_s, value)


def _checkpoint_bytes(plan: Plan) -> int | None:
    """State size of the newest completed checkpoint; None while the JobManager does not say."""
    try:
        state = scoring_job.state_of(plan)
        latest = read_json_url(f"{plan.addresses.flink_rest_url}/jobs/{state.job_id}/checkpoints")["latest"]["completed"]
        return None if latest is None else int(latest["state_size"])
    except (Unavailable, OSError, ValueError, KeyError):
        return None
