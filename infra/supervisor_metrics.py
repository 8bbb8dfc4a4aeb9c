"""What the supervisor tells Prometheus: which components work, what restarts, how old the newest checkpoint is, how far behind.

Everything is read when Prometheus asks, and at most once in a few seconds: nobody asking costs nothing.  Names and labels are
those of ``serving.metrics``.  Nothing here starts, stops or repairs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fraud.errors import Unavailable
from infra.jobs import JobTicket, find_missing, find_newest_checkpoint, load_tickets, read_jobs
from infra.lag import read_lag
from infra.layout import Layout, read_json
from infra.plan import Plan
from infra.ports import HOST
from infra.records import Record, load_records
from infra.servers import Server
from serving.exporter import Exporter, ExporterSettings, announce, serve
from serving.metrics import metric

__all__ = ["Snapshot", "StackCollector", "announce_flink", "component_of", "start_exporter", "take_snapshot", "withdraw"]

_HOLD_S = 4.0  # below the scrape interval, above what a second Prometheus or a person with curl would cost
_FLINK = "flink"


@dataclass(frozen=True)
class Snapshot:
    """The stack at one moment; keys are components, processes, jobs and topics."""

    health: Mapping[str, bool] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    io_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    jobs_running: Mapping[str, bool] = field(default_factory=dict)
    checkpoint_age_s: Mapping[str, float] = field(default_factory=dict)
    transaction_timeout_s: Mapping[str, float] = field(default_factory=dict)
    lag_records: Mapping[str, int] = field(default_factory=dict)


def component_of(server: str) -> str:
    """The component that a server belongs to: JobManager and TaskManagers are Flink."""
    return _FLINK if server.startswith(("jobmanager", "taskmanager")) else server


def take_snapshot(plan: Plan, servers: Sequence[Server], now_s: float) -> Snapshot:
    """Look at everything now; takes at most a few seconds, when some servers do not answer."""
    layout = plan.layout
    records = load_records(layout)
    with ThreadPoolExecutor(len(servers) + 2) as pool:
        works = list(pool.map(lambda server: _works(server, records.get(server.name)), servers))
    health: dict[str, bool] = {}
    for server, fine in zip(servers, works, strict=True):
        component = component_of(server.name)
        health[component] = health.get(component, True) and fine
    tickets = load_tickets(layout)
    cpu_s, memory_bytes, io_bytes = _resources(records.values())
    checkpoints = {ticket.name: _checkpoint_age_s(layout, ticket, now_s) for ticket in tickets}
    timeouts = {ticket.name: _transaction_timeout_s(layout, ticket) for ticket in tickets}
    return Snapshot(
        health=health,
        restarts={record.name: max(0, record.starts - 1) for record in records.values()},
        cpu_s=cpu_s,
        memory_bytes=memory_bytes,
        io_bytes=io_bytes,
        jobs_running=_jobs_running(plan, tickets) if health.get(_FLINK) else {ticket.name: False for ticket in tickets},
        checkpoint_age_s={name: age for name, age in checkpoints.items() if age is not None},
        transaction_timeout_s={name: timeout for name, timeout in timeouts.items() if timeout is not None},
        lag_records=_lag(plan, tickets) if health.get("kafka") else {},
    )


def _works(server: Server, record: Record | None) -> bool:
    return record is not None and record.alive and server.probe(record.started_at) is None


def _resources(records: Iterable[Record]) -> tuple[dict[str, float], dict[str, int], dict[tuple[str, str], int]]:
    """CPU seconds, resident bytes and disk bytes by process; one that ends meanwhile is left out."""
    cpu_s: dict[str, float] = {}
    memory_bytes: dict[str, int] = {}
    io_bytes: dict[tuple[str, str], int] = {}
    for record in records:
        if not record.alive or record.pid is None:
            continue
        try:
            process = psutil.Process(record.pid)
            times, used = process.cpu_times(), int(process.memory_info().rss)
            disk = process.io_counters() if hasattr(process, "io_counters") else None  # macOS does not tell
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        cpu_s[record.name] = float(times.user + times.system)
        memory_bytes[record.name] = used
        if disk is not None:
            io_bytes[record.name, "read"], io_bytes[record.name, "write"] = int(disk.read_bytes), int(disk.write_bytes)
    return cpu_s, memory_bytes, io_bytes


def _jobs_running(plan: Plan, tickets: Sequence[JobTicket]) -> dict[str, bool]:
    try:
        running = [job for job in read_jobs(plan.addresses.flink_rest_url) if job.state == "RUNNING"]
    except (OSError, ValueError, KeyError):
        running = []
    missing = {ticket.name for ticket in find_missing(tickets, running)}
    return {ticket.name: ticket.name not in missing for ticket in tickets}


def _checkpoint_age_s(layout: Layout, ticket: JobTicket, now_s: float) -> float | None:
    """Seconds since the newest checkpoint that a resumption would start from was completed; None when there is none."""
    checkpoint = find_newest_checkpoint(layout, ticket) if ticket.job_ids else None
    if checkpoint is None:
        return None  # nothing yet, or stopped on purpose with a savepoint: nothing is open
    metadata = Path(unquote(urlsplit(checkpoint).path)) / "_metadata"
    try:
        return max(0.0, now_s - metadata.stat().st_mtime)
    except OSError:
        return None  # it was subsumed by the next one a moment ago


def _transaction_timeout_s(layout: Layout, ticket: JobTicket) -> float | None:
    """What the job was last submitted with; None for a job without transactions."""
    settings = read_json(layout.jobs / f"{ticket.name}.settings") or {}
    timeout_ms = settings.get("transaction_timeout_ms")
    return None if timeout_ms is None else timeout_ms / 1e3


def _lag(plan: Plan, tickets: Sequence[JobTicket]) -> dict[str, int]:
    groups = {str((read_json(plan.layout.jobs / f"{ticket.name}.settings") or {}).get("group_id", "")) for ticket in tickets} - {""}
    lag: dict[str, int] = {}
    for group in sorted(groups):
        try:
            for topic, records in read_lag(plan.addresses.bootstrap_servers, group).items():
                lag[topic] = lag.get(topic, 0) + records
        except Unavailable:
            continue
    return lag


class StackCollector(Collector):
    """Turns snapshots into families; ``take`` is called at most once in ``hold_s`` seconds."""

    def __init__(
        self,
        take: Callable[[], Snapshot],
        *,
        machine_cost_usd_per_hour: float,
        clock: Callable[[], float] = time.monotonic,
        hold_s: float = _HOLD_S,
    ) -> None:
        self._take = take
        self._cost = machine_cost_usd_per_hour
        self._clock = clock
        self._hold_s = hold_s
        self._lock = threading.Lock()
        self._held: tuple[float, Snapshot] | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry would otherwise collect once to find the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        yield _family("fraud_detection_system_health", _by_name(snapshot.health))
        yield _family("fraud_detection_process_restarts_total", _by_name(snapshot.restarts))
        yield _family("fraud_detection_process_cpu_seconds_total", _by_name(snapshot.cpu_s))
        yield _family("fraud_detection_process_memory_bytes", _by_name(snapshot.memory_bytes))
        yield _family("fraud_detection_process_io_bytes_total", snapshot.io_bytes.items())
        yield _family("fraud_detection_job_running", _by_name(snapshot.jobs_running))
        yield _family("fraud_detection_checkpoint_age_seconds", _by_name(snapshot.checkpoint_age_s))
        yield _family("fraud_detection_transaction_timeout_seconds", _by_name(snapshot.transaction_timeout_s))
        yield _family("fraud_detection_consumer_lag_records", _by_name(snapshot.lag_records))
        yield _family("fraud_detection_machine_cost_usd_per_hour", [((), self._cost)])

    def _snapshot(self) -> Snapshot:
        with self._lock:
            if self._held is None or self._clock() - self._held[0] >= self._hold_s:
                self._held = (self._clock(), self._take())
            return self._held[1]


def _by_name(values: Mapping[str, float]) -> list[tuple[tuple[str, ...], float]]:
    return [((name,), value) for name, value in values.items()]


def _family(name: str, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """A gauge or a counter, as the catalogue says: label values and value of each series."""
    entry = metric(name)
    kind = CounterMetricFamily if entry.type == "counter" else GaugeMetricFamily
    family = kind(name, entry.help, labels=entry.labels)
    for labels, value in values:
        family.add_metric(labels, float(value))
    return family


def announce_flink(plan: Plan, server: Server) -> None:
    """Announce the reporter of a Flink process in the stack's folder; nothing for any other server."""
    if component_of(server.name) == _FLINK:
        # the JobManager's own port is the REST interface; its reporter has the first port of the row
        port = plan.settings.flink_metrics_port if server.name == "jobmanager" else server.port
        announce(plan.layout.metrics / f"flink-{server.name}.json", [f"{HOST}:{port}"], {"node": server.name})


def withdraw(layout: Layout, name: str) -> None:
    """Take back everything that a process which is gone for good has announced, or Prometheus would miss it."""
    for path in layout.metrics.glob(f"*-{name}.json"):
        path.unlink(missing_ok=True)


def start_exporter(plan: Plan, servers: Callable[[], Sequence[Server]]) -> Exporter:
    """Serve the supervisor's metrics and announce them in the stack's folder; ``servers`` are those of the moment.

    Raises:
        OSError: nothing can listen, or the folder cannot be written.
    """
    registry = CollectorRegistry(auto_describe=False)
    cost = plan.settings.machine_cost_usd_per_hour
    registry.register(StackCollector(lambda: take_snapshot(plan, servers(), time.time()), machine_cost_usd_per_hour=cost))
    ProcessCollector(registry=registry)
    settings = ExporterSettings(host=HOST, port=0, folder=plan.layout.metrics, node="stack")
    return serve(registry, settings, prefix="supervisor")
