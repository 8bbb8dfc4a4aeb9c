"""The sink of the local stack: ``python -m infra.sink HOME``, started and watched like the other servers."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector

from analytics.deletions import DeletionWatch
from analytics.sink import Sink, SinkSettings
from analytics.sink_metrics import SinkCollector
from analytics.store import Store
from fraud.errors import Unavailable
from infra.house_access import house_settings
from infra.layout import Layout
from infra.plan import Plan, load_plan
from infra.ports import HOST
from serving import logs
from serving.codec import Codec
from serving.exporter import ExporterSettings, serve
from serving.registry import HttpRegistry, register_all

__all__ = ["main"]


def main(home: str) -> None:
    """Feed the ClickHouse of the stack in ``home`` until told to stop."""
    logs.configure("sink")
    plan = load_plan(Layout(Path(home)))
    if plan is None:
        raise Unavailable("stack", "it has no plan; start it with ./fraudguard up")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    codec = _codec(plan, stopping)
    if codec is None:
        return
    house = house_settings(plan)
    store = Store(house)
    sink = Sink(SinkSettings(plan.addresses.bootstrap_servers), codec, store, stopping)
    deletions = DeletionWatch(Store(house))
    threading.Thread(target=deletions.run, args=(stopping,), name="deletions", daemon=True).start()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SinkCollector(sink.report, deletions))
    ProcessCollector(registry=registry)
    folder = ExporterSettings(host=HOST, port=plan.settings.sink_metrics_port, folder=plan.layout.metrics, node="sink")
    serve(registry, folder, prefix="sink")
    sink.run()
    store.close()


def _codec(plan: Plan, stopping: threading.Event) -> Codec | None:
    """The registry may still be starting, as everything else of the stack may; None when told to stop meanwhile."""
    registry = HttpRegistry(plan.addresses.registry_url, timeout_s=10.0)
    while True:
        try:
            return Codec(register_all(registry), registry.schema_by_id)
        except Unavailable:
            if stopping.wait(0.5):
                return None


if __name__ == "__main__":
    main(sys.argv[1])
