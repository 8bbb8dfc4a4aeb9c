"""What the API counts, under the names of ``serving.metrics``, and the middleware that counts requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.publisher import KafkaPublisher
from fraud.decide import Outcome
from serving.breakers import Breaker, BreakerState
from serving.degraded import KAFKA_DOWN, STORE_DOWN, STORE_HEALING
from serving.metrics import metric
from serving.records import Decision

__all__ = ["ApiMetrics", "HttpMetrics", "Watched"]

_KINDS: dict[str, type[Counter | Gauge | Histogram]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
_UNROUTED = "none"
_SCORING = ("POST", "/v1/score")


def _make(name: str, registry: CollectorRegistry) -> Any:
    entry = metric(name)
    options: dict[str, Any] = {"buckets": entry.buckets} if entry.type == "histogram" else {}
    return _KINDS[entry.type](entry.name, entry.help, entry.labels, registry=registry, **options)


class ApiMetrics:
    """The counters of one process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._decisions = _make("fraud_api_decisions_total", self.registry)
        self._repeated = _make("fraud_api_repeated_answers_total", self.registry)
        self._degraded = _make("fraud_api_degraded_answers_total", self.registry)
        self._features = _make("fraud_api_features_seconds", self.registry)
        self._scoring = _make("fraud_api_scoring_seconds", self.registry)
        self._failures = _make("fraud_api_store_failures_total", self.registry)
        self._unkept = _make("fraud_api_unkept_answers_total", self.registry)
        self._refused = _make("fraud_api_releases_refused_total", self.registry)
        self._durations = _make("http_request_duration_seconds", self.registry)
        self._requests = _make("http_requests_total", self.registry)
        self._errors = _make("http_errors_total", self.registry)
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Series that are known beforehand exist from the start: a rate over one that appears with its first error misses that error."""
        for outcome in Outcome:
            self._decisions.labels(outcome.name.lower())
        for reason in ("model_down", "rules_down", STORE_DOWN, STORE_HEALING, KAFKA_DOWN):
            self._degraded.labels(reason)
        for kind in ("rules", "models"):
            self._refused.labels(kind)
        self._durations.labels(*_SCORING)
        self._requests.labels(*_SCORING, "200")
        self._errors.labels(*_SCORING, "500")

    def features(self, seconds: float) -> None:
        """States were read and every feature evaluated."""
        self._features.observe(seconds)

    def scored(self, seconds: float) -> None:
        """Model and rules have spoken."""
        self._scoring.observe(seconds)

    def decided(self, decisions: Sequence[Decision], degraded: Sequence[str]) -> None:
        """First answers were made."""
        for decision in decisions:
            self._decisions.labels(decision.outcome.lower()).inc()
        for reason in degraded:
            self._degraded.labels(reason).inc(len(decisions))

    def healing(self) -> None:
        """An answer lacks the states of some of its entities, which the store may have lost."""
        self._degraded.labels(STORE_HEALING).inc()

    def repeated(self) -> None:
        """An earlier answer was given again."""
        self._repeated.inc()

    def unkept(self, count: int) -> None:
        """Answers were given that nobody will remember."""
        self._unkept.inc(count)

    def redis_failed(self) -> None:
        """A call to Redis failed or took too long."""
        self._failures.inc()

    def refused(self, kind: str) -> None:
        """A release was not put in force."""
        self._refused.labels(kind).inc()

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._durations.labels(method, route).observe(seconds)
        self._requests.labels(method, route, str(status)).inc()
        if status >= 500:
            self._errors.labels(method, route, str(status)).inc()


class Watched(Collector):
    """Reads what others keep, when Prometheus asks."""

    def __init__(self, publisher: KafkaPublisher, breakers: Sequence[Breaker]) -> None:
        self._publisher = publisher
        self._breakers = breakers

    def collect(self) -> Iterable[Family]:
        buffered, lost, opened = (metric(f"fraud_api_{name}") for name in ("buffered_events", "lost_events_total", "breaker_open"))
        yield GaugeMetricFamily(buffered.name, buffered.help, value=self._publisher.waiting)
        losses = CounterMetricFamily(lost.name, lost.help, labels=lost.labels)
        losses.add_metric(("overflow",), self._publisher.overflowed)
        losses.add_metric(("refused",), self._publisher.refused)
        yield losses
        states = GaugeMetricFamily(opened.name, opened.help, labels=opened.labels)
        for breaker in self._breakers:
            states.add_metric((breaker.name,), float(breaker.state is not BreakerState.CLOSED))
        yield states


class HttpMetrics:
    """Outermost middleware: times every request and counts it under its route, never under its path."""

    def __init__(self, app: ASGIApp, *, metrics: ApiMetrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what a request gets that ends without an answer

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        begun_s = self._clock()
        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", _UNROUTED)
            self._metrics.request(scope["method"], route, status, self._clock() - begun_s)
