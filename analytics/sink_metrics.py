"""What the sink tells Prometheus, read from its report and its watch when somebody asks; names are those of ``serving.metrics``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from analytics.deletions import DeletionWatch
from analytics.sink import Report
from serving.metrics import metric

__all__ = ["SinkCollector"]


class SinkCollector(Collector):
    """Turns the report of a sink, and what is seen of its deletions, into families."""

    def __init__(self, report: Report, deletions: DeletionWatch) -> None:
        self._report = report
        self._deletions = deletions

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect once to find the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        report = self._report
        yield _family("fraud_sink_rows_total", report.rows)
        yield _family("fraud_sink_erased_rows_total", report.erased)
        yield _family("fraud_sink_failing_deletions", self._deletions.failing)
        yield _family("fraud_sink_rejected_records_total", report.rejected)
        yield _family("fraud_sink_batches_total", report.batches)
        yield _family("fraud_sink_failures_total", report.failures)
        yield _family("fraud_sink_failing_seconds", report.failing_s)
        yield _family("fraud_sink_delay_seconds", report.delay_s)
        yield _family("fraud_sink_lag_records", report.lag_records)


def _family(name: str, values: Mapping[str, float] | float) -> Metric:
    entry = metric(name)
    kind = CounterMetricFamily if entry.type == "counter" else GaugeMetricFamily
    family = kind(name, entry.help, labels=entry.labels)
    for labels, value in [((), values)] if isinstance(values, int | float) else [((key,), one) for key, one in dict(values).items()]:
        family.add_metric(labels, float(value))
    return family
