"""What the stream counts: called once a batch, folded in bulk, summed over the operators of a process when Prometheus asks.

An operator owns a :class:`StreamMetrics` and is the only one to write to it.  A call puts the batch's arrays aside, and every
thousand events they are counted into buckets with two numpy calls, so that the cost of an event is that of a list entry.
Names, labels and buckets are those of ``serving.metrics``.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from fraud.decide import Outcome
from serving.clock import now_ms
from serving.exporter import Exporter, ExporterSettings, serve
from serving.metrics import metric
from serving.validate import ERASABLE

__all__ = ["BulkHistogram", "StreamExporter", "StreamMetrics", "process_exporter"]

Values = Sequence[float] | NDArray[np.float64]
Integers = Sequence[int] | NDArray[np.integer[Any]]

FOLD_EVENTS = 1_024
FOLD_BATCHES = 256  # bounds what waits when batches are of one event
MAX_SERIES = 200  # of one counter: label values come from rules and codes, which are few; more would be a mistake somewhere
OTHER = "other"

_LATENCY = "fraud_detection_processing_latency_seconds"
_BATCH_SIZE = "fraud_detection_batch_size"
_INFERENCE = "fraud_detection_ml_inference_latency_seconds"
_MODEL_SCORE = "fraud_detection_model_score"
_SCORE = "fraud_score_distribution"
_SKEW = "fraud_detection_score_skew"
_STALE_SKEW = "fraud_detection_stale_score_skew"
_HISTOGRAMS = (_LATENCY, _BATCH_SIZE, _INFERENCE, _MODEL_SCORE, _SCORE, _SKEW, _STALE_SKEW)

_TRANSACTIONS = "fraud_detection_transactions_total"
_DEAD_LETTERS = "fraud_detection_dead_letters_total"
_LATE = "fraud_detection_late_events_total"
_ALERTS = "fraud_detection_alerts_total"
_PREDICTIONS = "fraud_detection_ml_predictions_total"
_DEGRADED = "fraud_detection_degraded_decisions_total"
_REFUSED = "fraud_detection_releases_refused_total"
_SHADOWS = "fraud_detection_shadow_decisions_total"
_ROLLOUT_FAILURES = "fraud_detection_rollout_failures_total"
_ERASURES = "fraud_detection_erasures_total"
_STORE_ROWS = "fraud_detection_online_store_rows_total"
_STORE_FAILURES = "fraud_detection_online_store_failures_total"
_STORE_REEMITTED = "fraud_detection_online_store_reemitted_rows_total"
_STORE_HEALINGS = "fraud_detection_online_store_healings_total"
_STORE_COUNTERS = (_STORE_ROWS, _STORE_FAILURES, _STORE_REEMITTED, _STORE_HEALINGS)
_CHALLENGER_COUNTERS = (_SHADOWS, _ROLLOUT_FAILURES)
_COUNTERS = (
    *(_TRANSACTIONS, _DEAD_LETTERS, _LATE, _ALERTS, _PREDICTIONS, _DEGRADED, _REFUSED, _ERASURES),
    *(*_CHALLENGER_COUNTERS, *_STORE_COUNTERS),
)

_EVENT_LAG = "fraud_detection_event_lag_seconds"
_STORE_WAITING = "fraud_detection_online_store_waiting_rows"
_STORE_STALENESS = "fraud_detection_online_store_staleness_seconds"
_STORE_UNHEALED = "fraud_detection_online_store_unhealed_shards"

_OUTCOMES = tuple((outcome.name.lower(),) for outcome in Outcome)


class BulkHistogram:
    """Counts of values by bucket; ``bounds`` are inclusive upper bounds, as Prometheus' ``le``.  Not thread-safe."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self.sum = 0.0
        self._array = np.array(bounds, dtype=np.float64)

    def observe_many(self, values: NDArray[np.float64]) -> None:
        """Count ``float64[n]``; values that are not a number are left out."""
        total = float(values.sum())
        if total != total:  # noqa: PLR0124 - one comparison instead of a look at every value
            values = values[~np.isnan(values)]
            total = float(values.sum())
        self.counts += np.bincount(self._array.searchsorted(values), minlength=len(self.counts))
        self.sum += total

    def add(self, other: BulkHistogram) -> None:
        """Take over another one's counts."""
        self.counts += other.counts
        self.sum += other.sum


@dataclass(slots=True)
class _Decided:
    """Batches that wait to be folded, a column a list."""

    scores: list[Values] = field(default_factory=list)
    model_scores: list[Values] = field(default_factory=list)
    outcomes: list[Integers] = field(default_factory=list)
    ready_ms: list[int] = field(default_factory=list)
    append_ms: list[Integers] = field(default_factory=list)
    inference_s: list[float] = field(default_factory=list)
    events: int = 0


class _Totals:
    """Everything that only grows, of one operator or of several together."""

    def __init__(self) -> None:
        self.counters: dict[str, Counter[tuple[str, ...]]] = {name: Counter() for name in _COUNTERS}
        self.histograms = {name: BulkHistogram(metric(name).buckets) for name in _HISTOGRAMS}

    def count(self, name: str, labels: tuple[str, ...], amount: int) -> None:
        counter = self.counters[name]
        if labels not in counter and len(counter) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        counter[labels] += amount

    def add(self, other: _Totals) -> None:
        for name, counter in other.counters.items():
            for labels, amount in counter.items():
                self.count(name, labels, amount)
        for name, histogram in other.histograms.items():
            self.histograms[name].add(histogram)


class StreamMetrics:
    """What one operator counts.  One thread writes; any thread may read through the exporter.

    Args:
        clock: wall clock in ms, for how long the online store has been behind.
        on_close: called once with this object when the operator closes.
    """

    def __init__(self, clock: Callable[[], int], on_close: Callable[[StreamMetrics], None] = lambda _own: None) -> None:
        self._clock = clock
        self._on_close = on_close
        self._lock = threading.Lock()
        self._totals = _Totals()
        self._waiting = _Decided()
        self._batch_sizes: list[float] = []
        self._newest: tuple[int, float] | None = None  # when, and the lag in seconds
        self._store_waiting = 0
        self._store_clean_ms: int | None = None
        self._store_seen = (0, 0, 0, 0)
        self._healing_seen = (0, 0)
        self.unhealed_shards = 0

    def close(self) -> None:
        """The operator ends; what it counted stays in the process' totals."""
        self._on_close(self)

    def batch(self, size: int) -> None:
        """A batch of ``size`` records came in."""
        with self._lock:
            self._batch_sizes.append(size)
            if len(self._batch_sizes) >= FOLD_BATCHES:
                self._fold_batch_sizes()

    def transactions(self, status: str, amount: int = 1) -> None:
        """``status`` is one of ``_ALWAYS``; the methods below count all but ``duplicate`` and ``overtaken`` themselves."""
        with self._lock:
            self._totals.count(_TRANSACTIONS, (status,), amount)

    def dead_letters(self, source: str, code: str, amount: int = 1) -> None:
        """Records of a topic that were refused with the code of an ``InvalidEvent``."""
        with self._lock:
            self._totals.count(_DEAD_LETTERS, (source, code), amount)
            if source == "transactions":
                self._totals.count(_TRANSACTIONS, ("dead_letter",), amount)

    def confirmed(self, skew: float, *, comparable: bool) -> None:
        """A decision of the API has reached the stream, whose own score was off by ``skew``; ``comparable``: both had the same."""
        with self._lock:
            self._totals.count(_TRANSACTIONS, ("confirmed",), 1)
            self._totals.histograms[_SKEW if comparable else _STALE_SKEW].observe_many(np.array([skew]))

    def late(self, amount: int = 1) -> None:
        """Transactions behind the watermark."""
        with self._lock:
            self._totals.count(_LATE, (), amount)

    def alerts(self, rule_name: str, severity: str, amount: int = 1) -> None:
        """Alerts by the reason of their strongest rule."""
        with self._lock:
            self._totals.count(_ALERTS, (rule_name, severity), amount)

    def refused(self, kind: str, amount: int = 1) -> None:
        """``rules`` or ``models`` that could not be put in force."""
        with self._lock:
            self._totals.count(_REFUSED, (kind,), amount)

    def shadowed(self, kind: str, result: str, amount: int = 1) -> None:
        """What a challenger made of decided events; see ``serving.shadow``."""
        with self._lock:
            self._totals.count(_SHADOWS, (kind, result), amount)

    def rollout_failed(self, amount: int) -> None:
        """Events for which a challenger was to decide and could not."""
        with self._lock:
            self._totals.count(_ROLLOUT_FAILURES, (), amount)

    def erased(self, kind: str) -> None:
        """An entity was erased on request."""
        with self._lock:
            self._totals.count(_ERASURES, (kind,), 1)

    def decided(
        self,
        *,
        scores: Values,
        model_scores: Values | None,
        outcomes: Integers,
        append_time_ms: Integers,
        newest_event_ms: int,
        now_ms: int,
        inference_s: float,
        degraded: str | None = None,
    ) -> None:
        """A batch of ``n`` decisions is ready; the arrays are kept for a while and must not be written to afterwards.

        Args:
            scores: ``float64[n]``, 0..1.
            model_scores: ``float64[n]``, None when there was no model.
            outcomes: ``int[n]`` of :class:`fraud.decide.Outcome`.
            append_time_ms: ``int64[n]``, the broker's time of each transaction.
            newest_event_ms: the latest event time of the batch.
            now_ms: wall clock at which the decisions were ready.
            inference_s: how long the scoring call took.
            degraded: which side was down.
        """
        size = len(scores)
        if not size:
            return
        with self._lock:
            waiting = self._waiting
            waiting.scores.append(scores)
            if model_scores is not None:
                waiting.model_scores.append(model_scores)
            waiting.outcomes.append(outcomes)
            waiting.ready_ms.append(now_ms)
            waiting.append_ms.append(append_time_ms)
            waiting.inference_s.append(inference_s)
            waiting.events += size
            self._newest = (now_ms, (now_ms - newest_event_ms) / 1e3)
            if degraded is not None:
                self._totals.count(_DEGRADED, (degraded,), size)
            if waiting.events >= FOLD_EVENTS or len(waiting.scores) >= FOLD_BATCHES:
                self._fold()

    def online_store(self, written: int, refused: int, dropped: int, failures: int, waiting_rows: int) -> None:
        """How the writer of the online store stands: its own totals so far, and the rows that wait now."""
        now = (written, refused, dropped, failures)
        if now == self._store_seen and waiting_rows == self._store_waiting == 0:
            return
        with self._lock:
            grown = [new - old for new, old in zip(now, self._store_seen, strict=True)]
            self._store_seen = now
            for result, amount in zip(("written", "refused", "dropped"), grown, strict=False):
                if amount:
                    self._totals.count(_STORE_ROWS, (result,), amount)
            if grown[3]:
                self._totals.count(_STORE_FAILURES, (), grown[3])
            if waiting_rows and not self._store_waiting:
                self._store_clean_ms = self._clock()
            self._store_waiting = waiting_rows

    def healing(self, reemitted: int, begun: int, unhealed_shards: int) -> None:
        """How the healing of the online store stands: its own totals so far, and the shards that are not whole now."""
        self.unhealed_shards = unhealed_shards
        now = (reemitted, begun)
        if now == self._healing_seen:
            return
        with self._lock:
            for name, new, old in zip((_STORE_REEMITTED, _STORE_HEALINGS), now, self._healing_seen, strict=True):
                if new > old:
                    self._totals.count(name, (), new - old)
            self._healing_seen = now

    def read(self) -> tuple[_Totals, tuple[int, float] | None, int, float]:
        """A consistent copy: totals; when and how far event time lagged; rows that wait for the store, and for how many seconds."""
        with self._lock:
            self._fold()
            self._fold_batch_sizes()
            totals = _Totals()
            totals.add(self._totals)
            since = self._store_clean_ms if self._store_waiting else None
            return totals, self._newest, self._store_waiting, 0.0 if since is None else max(0, self._clock() - since) / 1e3

    def _fold_batch_sizes(self) -> None:
        if self._batch_sizes:
            self._totals.histograms[_BATCH_SIZE].observe_many(np.array(self._batch_sizes, dtype=np.float64))
            self._batch_sizes = []

    def _fold(self) -> None:
        """Count what waits into the buckets; the lock is held."""
        waiting = self._waiting
        if not waiting.events:
            return
        self._waiting = _Decided()
        histograms = self._totals.histograms
        histograms[_SCORE].observe_many(_joined(waiting.scores))
        if waiting.model_scores:
            histograms[_MODEL_SCORE].observe_many(_joined(waiting.model_scores))
        ready_ms = np.repeat(waiting.ready_ms, [len(scores) for scores in waiting.scores])
        # never negative: the broker's clock may be a little ahead
        histograms[_LATENCY].observe_many(np.maximum(ready_ms - np.concatenate(waiting.append_ms), 0) / 1e3)
        histograms[_INFERENCE].observe_many(np.array(waiting.inference_s))
        by_outcome = np.bincount(np.concatenate(waiting.outcomes), minlength=len(_OUTCOMES)).tolist()
        for labels, amount in zip(_OUTCOMES, by_outcome, strict=True):
            if amount:
                self._totals.count(_PREDICTIONS, labels, amount)
        self._totals.count(_TRANSACTIONS, ("decided",), waiting.events)


def _joined(columns: list[Values]) -> NDArray[np.float64]:
    return np.concatenate(columns, dtype=np.float64)


class StreamExporter(Collector):
    """The sum of the operators of one process, as Prometheus reads it."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._retired = _Totals()
        self._live: list[StreamMetrics] = []

    def new_metrics(self) -> StreamMetrics:
        """What another operator counts into."""
        created = StreamMetrics(self._clock, self._retire)
        with self._lock:
            self._live.append(created)
        return created

    def _retire(self, ended: StreamMetrics) -> None:
        # a counter must not fall while the process lives, or its rate would jump
        with self._lock:
            if ended in self._live:
                self._live.remove(ended)
                self._retired.add(ended.read()[0])

    def collect(self) -> Iterator[Metric]:
        """Every family of the stream; those without an observation too, so that a rule sees zero and not nothing."""
        with self._lock:
            totals = _Totals()
            totals.add(self._retired)
            readings = [own.read() for own in self._live]
            unhealed = sum(own.unhealed_shards for own in self._live)
        for own, *_ in readings:
            totals.add(own)
        yield from map(_counter, totals.counters.items())
        yield from (_histogram(name, histogram) for name, histogram in totals.histograms.items())
        lags = [newest for _, newest, _, _ in readings if newest is not None]
        if lags:
            yield _gauge(_EVENT_LAG, max(lags)[1])
        yield _gauge(_STORE_WAITING, sum(rows for _, _, rows, _ in readings))
        yield _gauge(_STORE_STALENESS, max((seconds for *_, seconds in readings), default=0.0))
        yield _gauge(_STORE_UNHEALED, unhealed)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect once to find the names."""
        return ()


# Series that a rule divides by or compares with must be there from the first scrape on.
_ALWAYS: dict[str, tuple[tuple[str, ...], ...]] = {
    _TRANSACTIONS: (("decided",), ("confirmed",), ("duplicate",), ("overtaken",), ("dead_letter",)),
    _PREDICTIONS: _OUTCOMES,
    _STORE_ROWS: (("written",), ("refused",), ("dropped",)),
    _DEGRADED: (("model_down",), ("rules_down",), ("model_and_rules_down",)),
    _REFUSED: (("rules",), ("models",)),
    _SHADOWS: (("rules", "failed"), ("model", "failed")),
    _ERASURES: tuple((kind,) for kind in ERASABLE),
    _LATE: ((),),
    _ROLLOUT_FAILURES: ((),),
    _STORE_FAILURES: ((),),
    _STORE_REEMITTED: ((),),
    _STORE_HEALINGS: ((),),
}


def _counter(item: tuple[str, Counter[tuple[str, ...]]]) -> Metric:
    name, counts = item
    entry = metric(name)
    family = CounterMetricFamily(name, entry.help, labels=entry.labels)
    for labels in dict.fromkeys((*_ALWAYS.get(name, ()), *counts)):
        family.add_metric(labels, counts[labels])
    return family


def _histogram(name: str, histogram: BulkHistogram) -> Metric:
    cumulated = np.cumsum(histogram.counts).tolist()
    bounds = (*map(floatToGoString, histogram.bounds), "+Inf")
    family = HistogramMetricFamily(name, metric(name).help)
    family.add_metric((), list(zip(bounds, cumulated, strict=True)), histogram.sum)
    return family


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, metric(name).help, value=value)


_process_lock = threading.Lock()
_process: list[tuple[StreamExporter, Exporter | None]] = []


def process_exporter(settings: ExporterSettings | None = None, *, clock: Callable[[], int] | None = None) -> StreamExporter:
    """The exporter of this process, started at the first call however many operators it hosts.

    Where nobody asked for one (see :class:`ExporterSettings`), or where it cannot listen, the counts are kept and nothing answers:
    a stream without metrics still decides.
    """
    with _process_lock:
        if not _process:
            settings = settings or ExporterSettings()
            exporter = StreamExporter(clock or now_ms)
            registry = CollectorRegistry(auto_describe=False)
            registry.register(exporter)
            ProcessCollector(registry=registry)
            _process.append((exporter, _serve(registry, settings) if settings.enabled else None))
        return _process[0][0]


def _serve(registry: CollectorRegistry, settings: ExporterSettings) -> Exporter | None:
    try:
        return serve(registry, settings, prefix="stream")
    except OSError:
        structlog.get_logger().exception("no_metrics", port=settings.port)
        return None
