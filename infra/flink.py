"""The Flink session cluster out of the pip wheel: its configuration, its commands, and the environment of its clients.

The JVMs are started directly: Flink's own scripts start two more JVMs each, only to compute memory sizes that stand here.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from fraud.errors import Unavailable
from infra.archives import archive_flags, kind_of
from infra.jars import jar_paths
from infra.layout import Layout
from infra.plan import Plan
from infra.ports import HOST
from infra.settings import REPO_ROOT
from serving.atomic_write import write_atomically

__all__ = ["environment", "flink_home", "jobmanager_command", "taskmanager_command", "write_configuration"]

_JOBMANAGER_CLASS = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASKMANAGER_CLASS = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"

# MiB of a TaskManager beside its heap and managed memory.
_FRAMEWORK_HEAP = 128
_FRAMEWORK_OFF_HEAP = 128
_TASK_OFF_HEAP = 64
_NETWORK = 64
_METASPACE = 256
_OVERHEAD = 192


def flink_home() -> Path:
    """The Flink distribution inside the apache-flink wheel."""
    spec = find_spec("pyflink")
    if spec is None or spec.origin is None:
        raise Unavailable("flink", "the apache-flink package is not installed in this environment")
    return Path(spec.origin).parent


def environment(layout: Layout, java_home: Path, *, python: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables for Flink's servers and for any client that submits to them.

    PYTHONPATH carries this environment's site-packages, since the interpreter embedded in a TaskManager knows no virtual
    environment, and the checkout, whose rooms the operators import.
    """
    variables = dict(os.environ if base is None else base)
    path = [str(REPO_ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), variables.get("PYTHONPATH", "")]
    home = flink_home()
    return {
        **variables,
        "JAVA_HOME": str(java_home),
        "FLINK_HOME": str(home),
        "FLINK_CONF_DIR": str(layout.flink_conf),
        "FLINK_LIB_DIR": str(layout.flink_lib),
        "FLINK_OPT_DIR": str(home / "opt"),
        "FLINK_PLUGINS_DIR": str(home / "plugins"),
        "FLINK_LOG_DIR": str(layout.logs),
        "MAX_LOG_FILE_NUMBER": "3",
        "PYFLINK_CLIENT_EXECUTABLE": str(python),
        # a submitter's JVM plans one job and ends: the optimising compiler cost it half of its 12 s of a core, in every resubmission too
        "JVM_ARGS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(entry for entry in path if entry)),
        "PYTHONUNBUFFERED": "1",
    }


def jobmanager_command(plan: Plan, java_home: Path) -> tuple[str, ...]:
    """The command line of the JobManager."""
    heap = plan.settings.jobmanager_heap_mb
    memory = (f"-Xms{heap // 2}m", f"-Xmx{heap}m", "-XX:MaxMetaspaceSize=256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
    own = (f"metrics.reporter.prom.port={plan.settings.flink_metrics_port}", f"io.tmp.dirs={plan.layout.flink_tmp / 'jobmanager'}")
    return _command(plan, java_home, "jobmanager", memory=memory, main_class=_JOBMANAGER_CLASS, own=own)


def taskmanager_command(plan: Plan, name: str, metrics_port: int, java_home: Path) -> tuple[str, ...]:
    """The command line of one TaskManager; ``name`` is its resource id, so that a restarted one takes its predecessor's place."""
    heap = plan.settings.taskmanager_heap_mb
    memory = (
        f"-Xms{heap // 2}m",
        f"-Xmx{heap}m",
        f"-Xmn{heap // 2}m",  # records live for milliseconds: with a third of the heap they were collected four times as often
        f"-XX:MaxDirectMemorySize={_FRAMEWORK_OFF_HEAP + _TASK_OFF_HEAP + _NETWORK}m",
        f"-XX:MaxMetaspaceSize={_METASPACE}m",
        "-XX:+UseSerialGC",
        # the time goes into Python; the optimising compiler took a third of two cores for the first minutes and gained nothing after
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
    )
    own = (
        f"taskmanager.resource-id={name}",
        f"metrics.reporter.prom.port={metrics_port}",
        f"io.tmp.dirs={plan.working_state / name}",
    )
    return _command(plan, java_home, name, memory=memory, main_class=_TASKMANAGER_CLASS, own=own)


def _command(plan: Plan, java_home: Path, name: str, *, memory: tuple[str, ...], main_class: str, own: tuple[str, ...]) -> tuple[str, ...]:
    conf = plan.layout.flink_conf
    return (
        str(java_home / "bin" / "java"),
        *archive_flags(plan.jars, kind_of(name)),
        *memory,
        *_java_options().split(),
        f"-Dlog.file={plan.layout.logs / name}.log",
        f"-Dlog4j.configurationFile=file:{conf / 'log4j.properties'}",
        "-cp",
        os.pathsep.join(str(jar) for jar in _library(plan)),
        main_class,
        "--configDir",
        str(conf),
        *(part for pair in own for part in ("-D", pair)),
    )


def _library(plan: Plan) -> list[Path]:
    """The jars on Flink's class path; flink-dist comes last, as in Flink's own scripts."""
    home = flink_home()
    wheel = sorted((home / "lib").glob("*.jar"), key=lambda jar: (jar.name.startswith("flink-dist"), jar.name))
    return [*jar_paths(plan.jars, "flink"), *sorted((home / "opt").glob("flink-python-*.jar")), *wheel]


def write_configuration(plan: Plan) -> None:
    """Write ``conf`` and link ``lib``; safe to repeat while servers run, since Flink reads both at its start only."""
    conf, lib = plan.layout.flink_conf, plan.layout.flink_lib
    conf.mkdir(parents=True, exist_ok=True)
    lib.mkdir(parents=True, exist_ok=True)
    for template in ("log4j.properties", "log4j-cli.properties"):
        shutil.copyfile(flink_home() / "conf" / template, conf / template)
    # several keepers start servers at the same time, in threads
    write_atomically(conf / "config.yaml", yaml.safe_dump(_configuration(plan), sort_keys=True))
    for jar in _library(plan):
        _link(jar, lib / jar.name)


def _link(target: Path, link: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(target)
    except FileExistsError:  # servers prepare in parallel and write the same link
        return


def _java_options() -> str:
    """The module openings that Flink needs on Java 17, as the wheel's own configuration lists them."""
    shipped = yaml.safe_load((flink_home() / "conf" / "config.yaml").read_text(encoding="utf-8"))
    return f"-XX:+IgnoreUnrecognizedVMOptions {shipped['env']['java']['opts']['all']}"


def _configuration(plan: Plan) -> dict[str, Any]:
    return {**_addresses(plan), **_memory(plan), **_recovery(plan), **_python(plan), **_reporting()}


def _addresses(plan: Plan) -> dict[str, Any]:
    choice = plan.settings
    return {
        "jobmanager.rpc.address": HOST,
        "jobmanager.rpc.port": choice.flink_rpc_port,
        "jobmanager.bind-host": HOST,
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "rest.port": choice.flink_port,
        "rest.bind-port": str(choice.flink_port),
        "rest.flamegraph.enabled": True,
        "execution.target": "remote",
        "execution.attached": False,
        "parallelism.default": choice.taskmanagers,
        "execution.buffer-timeout.interval": "1 ms",  # the default of 100 ms is longer than the whole latency budget
        "env.java.opts.all": _java_options(),
    }


def _memory(plan: Plan) -> dict[str, Any]:
    """Explicit sizes of every pool, since no script of Flink's computes them here."""
    choice = plan.settings
    return {
        "jobmanager.memory.heap.size": f"{choice.jobmanager_heap_mb}m",
        "jobmanager.memory.off-heap.size": "128m",
        "jobmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.cpu.cores": 1.0,
        "taskmanager.numberOfTaskSlots": 1,
        "taskmanager.memory.framework.heap.size": f"{_FRAMEWORK_HEAP}m",
        "taskmanager.memory.task.heap.size": f"{choice.taskmanager_heap_mb - _FRAMEWORK_HEAP}m",
        "taskmanager.memory.framework.off-heap.size": f"{_FRAMEWORK_OFF_HEAP}m",
        "taskmanager.memory.task.off-heap.size": f"{_TASK_OFF_HEAP}m",
        # SQL's windows clear a table of this size with every batch, which was a quarter of what they cost; the rest is RocksDB's
        "taskmanager.memory.managed.consumer-weights": "OPERATOR:5,STATE_BACKEND:90,PYTHON:5",
        "taskmanager.memory.managed.size": f"{choice.taskmanager_managed_mb}m",
        "taskmanager.memory.network.min": f"{_NETWORK}m",
        "taskmanager.memory.network.max": f"{_NETWORK}m",
        "taskmanager.memory.jvm-metaspace.size": f"{_METASPACE}m",
        "taskmanager.memory.jvm-overhead.min": f"{_OVERHEAD}m",
        "taskmanager.memory.jvm-overhead.max": f"{_OVERHEAD}m",
    }


def _recovery(plan: Plan) -> dict[str, Any]:
    addresses = plan.addresses
    return {
        "state.backend.type": "rocksdb",
        "execution.checkpointing.interval": f"{plan.settings.checkpoint_interval_ms} ms",
        "execution.checkpointing.incremental": True,
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.storage": "filesystem",
        "execution.checkpointing.dir": addresses.checkpoints_uri,
        "state.changelog.storage": "filesystem",
        "dstl.dfs.base-path": f"{addresses.checkpoints_uri}/changelog",
        "execution.checkpointing.savepoint-dir": addresses.savepoints_uri,
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": 3,
        "execution.checkpointing.timeout": "60 s",
        "restart-strategy.type": "exponential-delay",
        # Attempts fail until the dead TaskManager's successor has registered, 2 to 3 s after the kill, so they come often; and a job that
        # ran well for a while starts again with the shortest pause, where the default remembers failures for an hour.
        "restart-strategy.exponential-delay.initial-backoff": "500 ms",
        "restart-strategy.exponential-delay.max-backoff": "2 s",
        "restart-strategy.exponential-delay.backoff-multiplier": 1.2,
        "restart-strategy.exponential-delay.reset-backoff-threshold": "10 s",
        "heartbeat.interval": "1 s",  # two refused in a row, and a killed TaskManager's slot is known to be gone
        "heartbeat.timeout": "10 s",  # the default of 50 s is how long one that hangs would go unnoticed
        "cluster.registration.max-timeout": "1 s",  # the default of 30 s delays the return after a restart
        "cluster.registration.error-delay": "1 s",
        "cluster.registration.refused-registration-delay": "1 s",
    }


def _python(plan: Plan) -> dict[str, Any]:
    return {"python.execution-mode": "thread", "python.executable": str(plan.python), "python.client.executable": str(plan.python)}


def _reporting() -> dict[str, Any]:
    return {"metrics.reporter.prom.factory.class": "org.apache.flink.metrics.prometheus.PrometheusReporterFactory"}
