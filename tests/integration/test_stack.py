"""The stack as a person meets it: up, status, a second up, a killed server, down, wipe."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from fraud.errors import Unavailable
from infra.jobs import JobTicket, load_tickets, remove_ticket, save_ticket
from infra.ports import PortTaken, is_free
from infra.processes import live_members
from infra.records import SUPERVISOR, load_record, load_records
from infra.settings import StackSettings
from infra.stack import ComponentStatus, Stack
from infra.topics import TOPICS, Topic, create_topics

PATIENCE_S = 90.0


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s"
        time.sleep(0.2)


def ask(url: str, body: str | None = None) -> bytes:
    """GET, or POST of a JSON body."""
    request = Request(url, None if body is None else body.encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def component(stack: Stack, name: str) -> ComponentStatus:
    return next(part for part in stack.status().components if part.name == name)


def kill(stack: Stack, name: str) -> int:
    """Kill -9 one server and return the pid it had."""
    pid = component(stack, name).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.fixture
def healthy_stack(stack: Stack) -> Iterator[Stack]:
    """The shared stack, brought back after each test that hurts it."""
    yield stack
    stack.up()


def test_every_server_of_a_started_stack_is_healthy(healthy_stack: Stack) -> None:
    status = healthy_stack.status()
    assert status.state == "up"
    assert [part.name for part in status.components] == [
        "kafka",
        "registry",
        "redis",
        "jobmanager",
        "taskmanager-1",
        "taskmanager-2",
        "api",
    ]
    assert status.supervisor_pid is not None


def test_any_process_finds_the_addresses_by_the_home_folder(healthy_stack: Stack) -> None:
    addresses = Stack(healthy_stack.layout.home).addresses
    assert json.loads(ask(f"{addresses.flink_rest_url}/overview"))["slots-total"] == 2
    assert isinstance(json.loads(ask(f"{addresses.registry_url}/subjects")), list)
    assert b"flink_taskmanager" in ask(f"http://{addresses.metrics_targets[1]}/metrics")


def test_a_second_up_changes_nothing(healthy_stack: Stack) -> None:
    pids = [part.pid for part in healthy_stack.status().components]
    assert Stack(healthy_stack.layout.home).up().already
    assert pids == [part.pid for part in healthy_stack.status().components]


def test_topics_carry_the_settings_that_the_design_asks_for_and_creating_them_again_changes_nothing(healthy_stack: Stack) -> None:
    servers = healthy_stack.addresses.bootstrap_servers
    assert create_topics(servers, partitions=4, retention_ms=604_800_000) == []
    client = AdminClient({"bootstrap.servers": servers})
    assert {topic.name for topic in TOPICS} <= set(client.list_topics(timeout=10).topics)
    assert len(client.list_topics(timeout=10).topics["transactions"].partitions) == 4
    for topic in TOPICS:
        (answer,) = client.describe_configs([ConfigResource(ResourceType.TOPIC, topic.name)]).values()
        found = {name: entry.value for name, entry in answer.result(timeout=10).items()}
        assert found["message.timestamp.type"] == "LogAppendTime"
        assert int(found["max.message.bytes"]) >= 2 * 1024 * 1024
        assert found["cleanup.policy"] == ("compact" if topic.name in ("rules", "models") else "delete")
        assert topic.compacted or found["retention.ms"] == ("-1" if topic.permanent else "604800000")


def test_a_topic_with_too_few_partitions_grows(healthy_stack: Stack) -> None:
    servers = healthy_stack.addresses.bootstrap_servers
    growing = [Topic("growing")]
    client = AdminClient({"bootstrap.servers": servers})

    def partitions() -> int:
        known = client.list_topics(timeout=10).topics
        return len(known["growing"].partitions) if "growing" in known else 0

    assert create_topics(servers, partitions=2, retention_ms=1000, topics=growing) == ["growing"]
    wait_for(lambda: partitions() == 2, "two partitions")  # the broker learns of a topic a moment after the controller
    assert create_topics(servers, partitions=3, retention_ms=1000, topics=growing) == []
    wait_for(lambda: partitions() == 3, "a third partition")


def test_the_broker_runs_the_fixed_transaction_protocol(healthy_stack: Stack) -> None:
    """Before transaction.version 2 (KIP-890) a late message of one transaction could end the next one."""
    features = (healthy_stack.layout.kafka / "data" / "bootstrap.checkpoint").read_bytes()
    assert features.split(b"transaction.version")[1][:2] == b"\x00\x02"  # the record's name, then its level as a 16-bit integer


def test_a_killed_taskmanager_is_restarted_by_the_supervisor(healthy_stack: Stack) -> None:
    before = component(healthy_stack, "taskmanager-1").restarts
    killed = kill(healthy_stack, "taskmanager-1")
    wait_for(lambda: component(healthy_stack, "taskmanager-1").pid not in (None, killed), "a new TaskManager")
    wait_for(lambda: healthy_stack.status().state == "up", "a healthy stack")
    assert component(healthy_stack, "taskmanager-1").restarts == before + 1
    died = [event for event in healthy_stack.status().events if (event.component, event.event) == ("taskmanager-1", "died")]
    assert "SIGKILL" in died[-1].detail


def test_redis_and_the_registry_keep_what_they_acknowledged_over_a_kill(healthy_stack: Stack) -> None:
    addresses = healthy_stack.addresses
    schema = json.dumps({"schema": '{"type": "record", "name": "Kept", "fields": []}'})
    registered = json.loads(ask(f"{addresses.registry_url}/subjects/kept-value/versions", schema))
    port = component(healthy_stack, "redis").port
    assert ask_redis(port, b"SET kept 1\r\n").startswith(b"+OK")
    time.sleep(1.5)  # appendfsync everysec
    for name in ("redis", "registry"):
        kill(healthy_stack, name)
    wait_for(lambda: healthy_stack.status().state != "up", "the kill to be seen")
    wait_for(lambda: healthy_stack.status().state == "up", "a healthy stack")
    assert ask_redis(port, b"GET kept\r\n") == b"$1\r\n1\r\n"
    assert b"Kept" in ask(f"{addresses.registry_url}/schemas/ids/{registered['id']}")


def ask_redis(port: int, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(command)
        return connection.recv(64)


def test_a_lost_jobmanager_comes_back_and_its_job_is_resumed_from_the_newest_complete_checkpoint(healthy_stack: Stack) -> None:
    layout = healthy_stack.layout
    for number, complete in ((9, True), (10, True), (11, False)):
        folder = layout.checkpoints / "f00d" / f"chk-{number}"
        folder.mkdir(parents=True)
        if complete:
            (folder / "_metadata").touch()
    save_ticket(layout, JobTicket("probe", "tests.integration.resume_probe:resume", ("f00d",)))
    try:
        kill(healthy_stack, "jobmanager")
        wait_for(lambda: len(load_tickets(layout)[0].job_ids) > 1, "the job to be resumed")
        assert load_tickets(layout)[0].job_ids[1] == "after-chk-10"
    finally:
        remove_ticket(layout, "probe")


def test_a_killed_supervisor_leaves_the_servers_running_and_up_brings_one_that_adopts_them(healthy_stack: Stack) -> None:
    before = {part.name: part.pid for part in healthy_stack.status().components}
    supervisor = load_record(healthy_stack.layout, SUPERVISOR)
    assert supervisor is not None
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: healthy_stack.status().supervisor_pid is None, "the supervisor to be gone")
    killed = kill(healthy_stack, "redis")
    assert component(healthy_stack, "redis").health == "dead"
    assert not Stack(healthy_stack.layout.home).up().already
    after = {part.name: part.pid for part in healthy_stack.status().components}
    assert after.pop("redis") not in (None, killed)
    before.pop("redis")
    assert after == before
    # one that adopted its servers is not their parent and sees no exit status: the next test gets one that started them
    healthy_stack.down()


def test_down_leaves_no_process_and_no_port_and_wipe_removes_the_data(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "home", StackSettings.on_free_ports(taskmanagers=1))
    stack.up()
    records = load_records(stack.layout)
    ports = [part.port for part in stack.status().components]
    assert sorted(records) == ["api", "jobmanager", "kafka", "redis", "registry", "supervisor", "taskmanager-1"]
    assert stack.down()
    assert [record.name for record in records.values() if record.identity and live_members(record.identity)] == []
    assert [pid for pid in psutil.pids() if str(stack.layout.home) in " ".join(command_line(pid))] == []
    assert all(is_free(port) for port in ports)
    assert stack.status().state == "down"
    assert stack.layout.kafka.exists()
    assert not stack.down(wipe=True)
    assert not stack.layout.run.exists()


def command_line(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


def test_a_taken_port_is_named_with_its_holder_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        stack = Stack(tmp_path, StackSettings.on_free_ports(redis_port=port))
        with pytest.raises(PortTaken, match=rf"port {port} is taken by .*pid {os.getpid()}.*FRAUDGUARD_REDIS_PORT"):
            stack.up()
    assert stack.status().state == "down"
    assert load_records(stack.layout) == {}


def test_a_stack_that_is_not_up_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"\./fraudguard up"):
        _ = Stack(tmp_path).addresses
