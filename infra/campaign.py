"""One tenant's traffic through a running system, watched from both ends while something is done to the system.

The sender's end is a log of acknowledgements on disk, the other end a reader of committed records; ``infra.oracle`` compares them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from generator.acks import AckLog, read_acks
from generator.driver import Driver, Outgoing, Run, interleave
from generator.generate import labels, stream
from infra.application import codec_of
from infra.oracle import LEDGER_TOPICS, CommitTail, Evidence, Verdict, aborted_rows, committed_rows, judge_of
from infra.plan import Plan
from serving import ledger

__all__ = ["Campaign", "endless"]

_SLICE_S = 5.0
_LABEL_TIME_SCALE = 3e-5  # hours until a fraud is known become tenths of a second, so that labels travel too
_POLL_S = 0.2


def endless(
    tenant: str, rate: float, *, seed: int, start_ms: int, is_over: Callable[[], bool], users: int = 2_000, merchants: int = 200
) -> Iterator[Outgoing]:
    """Transactions and labels of a tenant at ``rate`` a second until ``is_over``; an event's time is the instant at which it is due."""
    frames = stream(seed=seed, rate=rate, start_ms=start_ms, slice_s=_SLICE_S, users=users, merchants=merchants)
    for number, frame in enumerate(frames):
        ours = frame.with_columns(pl.lit(tenant).alias("tenant_id"))
        for item in interleave(ours, labels(ours, seed=seed, time_scale=_LABEL_TIME_SCALE), rate):
            if is_over():
                return
            item.due_s += number * _SLICE_S
            yield item


class Campaign:
    """Use as a context manager.

    Args:
        plan: of a stack that is up with its job.
        folder: where the log of acknowledgements goes.
        tenant: one that was never used before.
    """

    def __init__(self, plan: Plan, folder: Path, tenant: str) -> None:
        self.plan = plan
        self.tenant = tenant
        self.sent: set[str] = set()
        self.run = Run()
        self._bootstrap = plan.addresses.bootstrap_servers
        self._codec = codec_of(plan)
        self._start = ledger.end_offsets(self._bootstrap, LEDGER_TOPICS)
        self._fast_start = ledger.end_offsets(self._bootstrap, (ledger.FAST_LANE,))
        self.acks = AckLog(folder / f"{tenant}.acks.jsonl")
        self.tail = CommitTail(self._bootstrap, codec_of(plan), self._start, self.acks.acked_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.tail.close()
        self.acks.__exit__(kind, error, trace)

    def drive(
        self,
        outgoing: Iterator[Outgoing],
        *,
        linger_s: float = 90.0,
        producer_options: Mapping[str, str | int | bool] | None = None,
        on_progress: Callable[[Run], None] = lambda _run: None,
    ) -> Run:
        """Send everything at its time and wait for the answers; may be called again."""
        driver = Driver(
            self._bootstrap,
            self._codec,
            hold=False,
            acks=self.acks,
            producer_options={"log_level": 0, **(producer_options or {})},  # a broker that is away is part of the plan
            on_progress=on_progress,
        )
        self.run = driver.run_so_far
        try:
            return driver.run(outgoing, paced=True, linger_s=linger_s)
        finally:
            self.sent |= self.run.sent_ids.keys() | self.run.sent_labels

    def settle(self, quiet_s: float = 90.0) -> None:
        """Wait until everything acknowledged is visible, or nothing new came for ``quiet_s``; then two checkpoints for repeats."""
        self.acks.sync()
        acks = list(read_acks(self.acks.path))
        began_s = time.monotonic()
        while not self.tail.holds(acks) and time.monotonic() - max(began_s, self.tail.changed_s) < quiet_s:
            time.sleep(_POLL_S)
        time.sleep(2 * self.plan.settings.checkpoint_interval_ms / 1000.0 + 0.5)

    def verdict(self) -> Verdict:
        """What the oracle says of everything so far."""
        evidence = Evidence(self.tenant, self.sent, list(read_acks(self.acks.path)))
        return judge_of(self.plan, self._codec).judge(evidence, lambda: committed_rows(self._bootstrap, self._start))

    def aborted_rows(self) -> int:
        """Rows of the ledger's topics that a reader of uncommitted records saw and that were taken back."""
        return aborted_rows(self._bootstrap, self._start)

    def fast_lane_repeats(self) -> int:
        """Decisions that the fast lane repeated: what at-least-once delivery of the same rows, by the same job, leaves."""
        decided = [self._codec.decode_decision(value) for _, _, value in committed_rows(self._bootstrap, self._fast_start)]
        ours = [decision.decision_id for decision in decided if decision.tenant_id == self.tenant]
        return len(ours) - len(set(ours))

    def decisions(self) -> Iterator[Any]:
        """The committed decisions of the tenant, each partition in order."""
        for topic, _, value in committed_rows(self._bootstrap, self._start):
            if topic == ledger.DECISIONS:
                decision = self._codec.decode_decision(value)
                if decision.tenant_id == self.tenant:
                    yield decision

    def dead_letters(self) -> Iterator[Any]:
        """The dead letters since the start, of whoever sent meanwhile."""
        for topic, _, value in committed_rows(self._bootstrap, self._start):
            if topic == ledger.DEAD_LETTERS:
                yield self._codec.decode_dead_letter(value)
