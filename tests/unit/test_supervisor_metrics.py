"""What the supervisor exports: names and labels of the catalogue, one look for many scrapes, ages from what is on disk."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from infra.jobs import JobTicket, save_ticket
from infra.layout import Layout
from infra.plan import make_plan
from infra.processes import identify
from infra.records import Record, save_record
from infra.servers import Server
from infra.settings import StackSettings
from infra.supervisor_metrics import Snapshot, StackCollector, component_of, take_snapshot
from serving.metrics import CATALOGUE, Emitter

FULL = Snapshot(
    health={"kafka": True, "flink": False},
    restarts={"kafka": 2},
    cpu_s={"kafka": 1.5},
    memory_bytes={"kafka": 3},
    io_bytes={("kafka", "read"): 4},
    jobs_running={"job": True},
    checkpoint_age_s={"job": 5.0},
    transaction_timeout_s={"job": 900.0},
    lag_records={"transactions": 6},
)


def test_what_is_exposed_is_what_the_catalogue_says() -> None:
    families = list(StackCollector(lambda: FULL, machine_cost_usd_per_hour=0.25).collect())
    exposed = {sample.name: (family.type, set(sample.labels)) for family in families for sample in family.samples}
    assert exposed == {entry.name: (entry.type, set(entry.labels)) for entry in CATALOGUE if entry.emitter is Emitter.SUPERVISOR}


def value(families: list[Metric], name: str, **labels: str) -> float:
    (found,) = [s.value for family in families for s in family.samples if s.name == name and s.labels == labels]
    return float(found)


def test_values_reach_their_series() -> None:
    families = list(StackCollector(lambda: FULL, machine_cost_usd_per_hour=0.25).collect())
    assert value(families, "fraud_detection_system_health", component="kafka") == 1
    assert value(families, "fraud_detection_system_health", component="flink") == 0
    assert value(families, "fraud_detection_process_io_bytes_total", process="kafka", direction="read") == 4
    assert value(families, "fraud_detection_machine_cost_usd_per_hour") == 0.25


def test_scrapes_in_quick_succession_share_one_look() -> None:
    now, looks = [0.0], []

    def look() -> Snapshot:
        looks.append(now[0])
        return FULL

    collector = StackCollector(look, machine_cost_usd_per_hour=0, clock=lambda: now[0], hold_s=4)
    for moment in (0.0, 1.0, 3.9, 4.0, 5.0):
        now[0] = moment
        list(collector.collect())
    assert looks == [0.0, 4.0]


def server(name: str, reason: str | None) -> Server:
    return Server(name, (), {}, Path(), 1, "", {}, lambda _started_at: reason)


def running(layout: Layout, name: str, starts: int = 1) -> None:
    identity = identify(os.getpid())
    assert identity is not None
    save_record(layout, Record(name, identity.pid, identity.mark, "ready", starts=starts))


def test_a_component_is_healthy_when_every_server_of_it_lives_and_answers(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    plan = make_plan(layout, StackSettings.on_free_ports(taskmanagers=1))
    servers = [server("redis", None), server("registry", None), server("jobmanager", None), server("taskmanager-1", "not registered")]
    for name, starts in (("redis", 1), ("jobmanager", 3), ("taskmanager-1", 1)):
        running(layout, name, starts)
    snapshot = take_snapshot(plan, servers, now_s=0)
    assert snapshot.health == {"redis": True, "registry": False, "flink": False}
    assert snapshot.restarts["jobmanager"] == 2
    assert snapshot.memory_bytes["redis"] > 1_000_000
    assert snapshot.cpu_s["redis"] > 0
    assert take_snapshot(plan, [replace(servers[3], name="taskmanager-1", probe=lambda _at: None)], now_s=0).health == {"flink": True}


def test_checkpoint_age_and_transaction_timeout_are_those_of_the_jobs_own_files(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    plan = make_plan(layout, StackSettings.on_free_ports(taskmanagers=1))
    save_ticket(layout, JobTicket("score", "module:function", ("one",)))
    save_ticket(layout, JobTicket("other", "module:function"))
    (layout.jobs / "score.settings").write_text(json.dumps({"transaction_timeout_ms": 900_000}))
    metadata = layout.checkpoints / "one" / "chk-3" / "_metadata"
    metadata.parent.mkdir(parents=True)
    metadata.touch()
    now_s = time.time()
    os.utime(metadata, (now_s - 70, now_s - 70))
    snapshot = take_snapshot(plan, [server("redis", None)], now_s)
    assert snapshot.checkpoint_age_s == {"score": pytest.approx(70, abs=0.01)}
    assert snapshot.transaction_timeout_s == {"score": 900.0}
    assert snapshot.jobs_running == {"score": False, "other": False}


def test_jobmanager_and_taskmanagers_are_one_component() -> None:
    assert [component_of(name) for name in ("kafka", "jobmanager", "taskmanager-12")] == ["kafka", "flink", "flink"]
