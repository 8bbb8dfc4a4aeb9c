"""``bench peers``: the same prepared topic worked off by our job, bytewax, Quix Streams and Spark, one after the other on two cores.

A stack of its own under the state home holds the input, so that nothing else runs beside the one that is measured.  Every decision is
then recomputed: all entities in the order that its sequence numbers record, the card also in the order of the input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from confluent_kafka import Message, Producer

from flink_jobs.settings import JOB_NAME
from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.events import KINDS, Kind
from generator.generate import demo_traffic
from infra import peers_environment, scoring_job
from infra.application import codec_of, enricher_of, ensure_feature_store
from infra.drain import Drain, Usage, busy_s, figures, output_size, sample_tree, wait_until_drained
from infra.first_model import DEMO_SEED, ensure_model
from infra.java import find_java_home
from infra.jobs import JobTicket, save_ticket
from infra.layout import Layout
from infra.peers.settings import SETTINGS_VARIABLE, PeerSettings
from infra.ports import HOST, find_free_ports
from infra.probes import read_json_url
from infra.processes import identify, start, stop_groups
from infra.records import load_records
from infra.settings import REPO_ROOT, StackSettings, default_home
from infra.shares import STREAM
from infra.stack import Stack
from infra.topics import Topic, create_topics
from serving import ledger
from serving.clock import now_ms
from serving.codec import Codec
from serving.history import to_transactions
from training import backfill, ledger_history
from training.enrichment import enrich_frame
from training.parity import bits_differ, compare

__all__ = ["OURS", "OUR_MODES", "PEERS", "Bench", "ratio_to_process_mode", "run"]

Say = Callable[[str], None]

OURS = "fraudguard"
OURS_IN_PROCESSES = "fraudguard-process-mode"
OUR_MODES = {OURS: "thread", OURS_IN_PROCESSES: "process"}  # how PyFlink executes the operators
_CORES = 2
_TIMEOUT_S = 480.0
_EVENTS_PER_S = 500.0  # of event time, as the demonstration's traffic
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Peer:
    """What is said of a program beside its figures; ``package`` is its name in the lock."""

    name: str
    package: str
    processes: int
    guarantee: str
    state: str
    notes: tuple[str, ...]


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "bytewax",
            "bytewax",
            2,
            "at-least-once: offsets and state recover together, but the output of the last snapshot interval is written again",
            "in memory, snapshots of changed keys to SQLite (recovery store) every second",
            ("kafka sink without transactions",),
        ),
        Peer(
            "quix",
            "quixstreams",
            2,
            "exactly-once: offsets, changelogs, hops and output in one Kafka transaction a commit",
            "RocksDB with changelog topics, commit every second",
            ("group_by cannot be nested: four topics between five dataframes", "one record at a time, so the model scores one row a call"),
        ),
        Peer(
            "spark",
            "pyspark",
            1,
            "state exactly-once by checkpoint; output at-least-once (the Kafka sink has no transactions)",
            "RocksDB state store with changelog checkpoints at every micro-batch",
            (
                "micro-batches of 10,000 records: no decision leaves before its batch ends",
                "transformWithStateInPandas, local[2], 1 GB of JVM heap",
            ),
        ),
    )
}
_ABOUT_US = {
    "version": "this checkout",
    "guarantee": "exactly-once ledger (one Kafka transaction a checkpoint) and an at-least-once fast lane",
    "state": "RocksDB, checkpoints every second",
    "notes": (
        "also writes every decision to the fast lane, alerts, and every entity's state to the online store",
        "also drops duplicates, flags late events and asks the blacklist",
        "its JobManager and TaskManagers idle while the peers run",
    ),
}


def run(*, events: int, only: Sequence[str], say: Say, home: Path | None = None) -> dict[str, Any]:
    """Measure the programs named in ``only`` (all when empty) and return the object of ``bench peers --json``.

    Raises:
        Unavailable: the stack or the peers' environment could not be had.  A peer that fails is reported, not raised.
    """
    home = home or default_home()
    wanted = [name for name in (*PEERS, *OUR_MODES) if not only or name in only]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])  # inherited by everything that is started from here
    python = peers_environment.prepare(home, say) if set(wanted) - OUR_MODES.keys() else None
    bench = Bench(home, python, events, say)
    try:
        bench.open()
        results = {name: bench.measure(name) for name in wanted}
    finally:
        bench.close()
    return {
        "events": events,
        "cores": _CORES,
        "input": f"{events} generated transactions of {bench.cards} cards in one prepared topic",
        "entities": list(KINDS),
        "results": results,
        "ratio_to_process_mode": ratio_to_process_mode(results),
        "fastest": max(results, key=lambda name: results[name].get("events_per_s") or 0),
    }


def ratio_to_process_mode(results: dict[str, dict[str, Any]]) -> float | None:
    """How many times as fast our job is with its Python inside of the TaskManagers; None when one of the two was not measured."""
    ours, theirs = (results.get(name, {}).get("events_per_s") for name in OUR_MODES)
    return round(ours / theirs, 2) if ours and theirs else None


class _Output:
    """What a program adds to a topic from now on."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self._bootstrap = bootstrap
        self._start = ledger.end_offsets(bootstrap, (topic,))

    def size(self) -> int:
        """Records, and markers of transactions."""
        before: int = sum(place.offset for place in self._start)
        return output_size(self._bootstrap, self.topic) - before

    def records(self) -> Iterator[Message]:
        """The committed records."""
        return ledger.read_to_end(self._bootstrap, (), self._start)


class Bench:
    """A stack with a filled topic, and one measurement after the other on it."""

    def __init__(self, home: Path, python: Path | None, events: int, say: Say) -> None:
        self._home = home
        self._python = python
        self._events = events
        self._say = say
        self.cards = 0
        self._stack = Stack(home / "bench-peers", StackSettings.on_free_ports(jars_dir=home / "jars"))

    def open(self) -> None:
        """Bring the stack up and fill the topic."""
        layout = self._stack.layout
        layout.home.mkdir(parents=True, exist_ok=True)
        models = scoring_job.models_dir(Layout(self._home))
        ensure_model(models, lambda: enricher_of(Stack(self._home)), self._say)
        link = scoring_job.models_dir(layout)
        if not link.is_symlink():
            link.symlink_to(models)
        self._stack.down(wipe=True)  # the ticket of a run that was interrupted would bring its job back, in whatever mode
        self._stack.up(self._say)
        ensure_feature_store(self._stack, self._say)
        self._codec: Codec = codec_of(self._stack.plan)
        self._settings = self._peer_settings()
        if self._python is not None:
            self._say("compiling the kernel for the peers' environment")
            subprocess.run([str(self._python), "-c", "import infra.peers.work"], env=self._environment(), cwd=REPO_ROOT, check=True)
        length_s = self._events / _EVENTS_PER_S
        start_ms = now_ms() - round(length_s * 1000) - 1000
        frame = demo_traffic(length_s, _EVENTS_PER_S, seed=DEMO_SEED, start_ms=start_ms)
        self._fill(frame)
        self._expected_cards = _card_features(enrich_frame(frame, enricher_of(self._stack)))

    def close(self) -> None:
        """Stop the stack and remove its data."""
        self._stack.down(wipe=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def measure(self, name: str) -> dict[str, Any]:
        """Have one program work the topic off and check what it wrote."""
        self._say(f"{name}: working off {self._events:,} transactions")
        ours = name in OUR_MODES
        about = dict(_ABOUT_US) if ours else _about(PEERS[name])
        topic = ledger.DECISIONS if ours else f"peer-{name}"
        if not ours:
            plan = self._stack.plan.settings
            create_topics(self._bootstrap, partitions=plan.partitions, retention_ms=plan.retention_ms, topics=[Topic(topic)])
        output = _Output(self._bootstrap, topic)
        try:
            end, drain = self._measure_ours(OUR_MODES[name], output) if ours else self._measure_peer(PEERS[name], output)
        except Unavailable as error:
            return {**about, "end": "failed", "detail": str(error)}
        records = list(output.records())
        drain = replace(drain, outputs_s=[record.timestamp()[1] / 1000 for record in records])
        found = figures(drain)
        end_s = max(drain.outputs_s, default=drain.first_read_s)
        spent_s, foreign_s = (usage.cpu_s(drain.first_read_s, end_s) for usage in (drain.usage, drain.foreign))
        result = {
            **about,
            "end": end,
            **found,
            "cpu_us_per_event": round(spent_s * 1e6 / self._events),
            "peak_rss_mb": round(drain.usage.peak_rss_bytes / 2**20),
            # what neither the program nor the stack took: a figure of a busy machine says little
            "cores_taken_by_others": round(foreign_s / max(end_s - drain.first_read_s, 1.0), 2),
            **self._check([record.value() for record in records]),
        }
        self._say(f"{name}: {found['events_per_s']} events/s, {result['peak_rss_mb']} MB, {result['decided']} decided")
        return result

    @property
    def _bootstrap(self) -> str:
        return self._stack.addresses.bootstrap_servers

    @property
    def _folder(self) -> Path:
        return self._stack.layout.home / "peers"

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(REPO_ROOT),
            "PYTHONUNBUFFERED": "1",
            "JAVA_HOME": str(find_java_home()),
            "PYSPARK_PYTHON": str(self._python),
            "OMP_NUM_THREADS": "1",  # the model's library would start a thread a core in each of two processes
            SETTINGS_VARIABLE: str(self._folder / "settings.json"),
        }

    def _peer_settings(self) -> PeerSettings:
        job = scoring_job.settings_of(self._stack.plan)
        assert job.core.default_model is not None  # ensure_model has run
        assert job.core.default_rules is not None
        return PeerSettings(
            bootstrap_servers=self._bootstrap,
            input_topic=ledger.TRANSACTIONS,
            output_topic="",
            group="",
            partitions=self._stack.plan.settings.partitions,
            state_dir="",
            first_read_file="",
            schema_ids=dict(job.core.schema_ids),
            ip_hash_key_file=job.core.ip_hash_key_file,
            models_dir=job.core.models_dir,
            model_sha256=job.core.default_model,
            rules_json=job.core.default_rules,
            code_version=job.core.code_version,
            commit_interval_ms=job.checkpoint_interval_ms,
            jars=tuple(map(str, peers_environment.connector_jars(self._home))),
        )

    def _fill(self, frame: pl.DataFrame) -> None:
        self._say(f"filling the topic with {frame.height:,} transactions")
        self.cards = frame["card_id"].n_unique()
        producer = Producer({"bootstrap.servers": self._bootstrap, "linger.ms": 20, "acks": "all", "enable.idempotence": True})
        for tx in to_transactions(frame, 0, frame.height):
            producer.produce(ledger.TRANSACTIONS, self._codec.encode_transaction(tx), tx.card_id.encode())
            if len(producer) > 50_000:
                producer.poll(0.1)
        if producer.flush(60):
            raise Unavailable("kafka", "the input could not be written")

    def _measure_peer(self, peer: Peer, output: _Output) -> tuple[str, Drain]:
        folder = self._folder / peer.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = replace(
            self._settings,
            output_topic=output.topic,
            group=f"peer-{peer.name}",
            state_dir=str(folder),
            first_read_file=str(folder / "first-read"),
        )
        settings.write(self._folder / "settings.json")
        commands = self._commands(peer.name, folder)
        log = self._stack.layout.log_file(f"peer-{peer.name}")
        started_s = time.time()
        # the share of our TaskManagers: one that weighed more would starve the broker, which both of them wait for
        children = [start(command, environment=self._environment(), folder=REPO_ROOT, log_file=log, share=STREAM) for command in commands]
        groups = [identity for child in children if (identity := identify(child.pid)) is not None]
        try:
            end, usages = self._watch([child.pid for child in children], output, lambda: all(child.poll() is None for child in children))
        finally:
            stop_groups(groups, grace_s=_GRACE_S, reap=partial(_reap, children))
        first_read = folder / "first-read"
        if not first_read.exists():
            raise Unavailable(peer.name, f"it read nothing; see the end of its log:\n{_tail(log)}")
        if end == "ended":
            self._say(f"{peer.name} ended early:\n{_tail(log)}")
        return end, Drain(started_s, float(first_read.read_text()), [], *usages)

    def _commands(self, name: str, folder: Path) -> list[list[str]]:
        python = str(self._python)
        if name == "bytewax":
            recovery = folder / "recovery"
            recovery.mkdir()
            subprocess.run([python, "-m", "bytewax.recovery", str(recovery), str(_CORES)], check=True)
            addresses = ";".join(f"{HOST}:{port}" for port in find_free_ports(_CORES))
            flow = [python, "-m", "bytewax.run", "infra.peers.bytewax_flow:build_flow()", "-r", str(recovery), "-s", "1", "-b", "0"]
            return [[*flow, "-i", str(number), "-a", addresses] for number in range(_CORES)]
        if name == "quix":
            return [[python, "-m", "infra.peers.quix_app", str(number)] for number in range(_CORES)]
        return [[python, "-c", "from infra.peers.spark_query import main; main()"]]

    def _measure_ours(self, mode: str, output: _Output) -> tuple[str, Drain]:
        plan = self._stack.plan
        save_ticket(plan.layout, JobTicket(JOB_NAME, "infra.scoring_job:resume", arguments=(json.dumps({"execution_mode": mode}),)))
        started_s = time.time()
        job = scoring_job.ensure_running(plan, self._say)
        first_read_s = _running_since(plan.addresses.flink_rest_url, job.job_id or "")
        workers = [record.pid for name, record in load_records(plan.layout).items() if name.startswith(("job", "task")) and record.pid]
        end, usages = self._watch(workers, output, lambda: True)
        scoring_job.stop(plan, with_savepoint=False)
        return end, Drain(started_s, first_read_s, [], *usages)

    def _watch(self, pids: Sequence[int], output: _Output, is_running: Callable[[], bool]) -> tuple[str, tuple[Usage, Usage]]:
        """Watch a program work; returns how it ended, what it took, and what took neither it nor the stack."""
        usage, foreign = Usage(), Usage()
        records = load_records(self._stack.layout).values()
        everybody = {record.pid for record in records if record.pid is not None and record.alive} | set(pids) | {os.getpid()}

        def sample() -> None:
            now_s = time.time()
            usage.add(now_s, *sample_tree(pids))
            foreign.add(now_s, busy_s() - sample_tree(sorted(everybody))[0], 0)

        end = wait_until_drained(
            self._events,
            output.size,
            lambda: sum(1 for _ in output.records()),
            sample,
            is_running,
            timeout_s=_TIMEOUT_S,
        )
        return end, (usage, foreign)

    def _check(self, values: Sequence[bytes | None]) -> dict[str, Any]:
        """Decisions against the input: how many, and how many rows of features are not the ones that our backfill computes."""
        history = ledger_history.load(((ledger.DECISIONS, value) for value in values), self._codec)
        checked: dict[str, Any] = {
            "decided": history.frame.height,
            "repeated": history.repeated,
            "outcomes": dict(sorted(history.frame["outcome"].value_counts().iter_rows())),
        }
        try:
            history.check_complete()
        except ledger_history.IncompleteLedger as error:
            return checked | {"incomplete": str(error)}
        recomputed = history.recompute()
        in_order = compare(history.frame, history.recorded, self._expected_cards)
        entities = [kind for i, kind in enumerate(KINDS) if (history.event_seqs[:, i] > 0).any()]
        return checked | {
            "entities": entities,
            "differing_rows": int(bits_differ(recomputed.features, history.recorded).any(axis=1).sum()),
            "differing_card_rows_in_file_order": in_order.differing_rows,
        }


def _about(peer: Peer) -> dict[str, Any]:
    return {
        "version": peers_environment.locked_version(peer.package),
        "processes": peer.processes,
        "guarantee": peer.guarantee,
        "state": peer.state,
        "notes": peer.notes,
    }


def _card_features(frame: pl.DataFrame) -> pl.DataFrame:
    """The features of the card in file order, with ids."""
    events = backfill.event_matrix(frame)
    result = backfill.run(events, backfill.no_labels(), backfill.file_order(events, backfill.no_labels()), kinds=(Kind.CARD,))
    columns = CATALOGUE.slices[Kind.CARD]
    features = pl.DataFrame(result.features[:, columns], schema=list(CATALOGUE.names[columns]))
    return pl.concat([frame.select("tenant_id", "transaction_id"), features], how="horizontal")


def _running_since(rest_url: str, job_id: str) -> float:
    """When the last task of the job was ready to work, wall clock in seconds, by Flink's own account.

    What the operators load when they open lies before it, as what a peer loads lies before its first record.
    """
    now_s = time.time()
    running_ms = [
        int(task["status-duration"]["RUNNING"])
        for vertex in read_json_url(f"{rest_url}/jobs/{job_id}")["vertices"]
        for task in read_json_url(f"{rest_url}/jobs/{job_id}/vertices/{vertex['id']}")["subtasks"]
    ]
    return now_s - min(running_ms) / 1000


def _reap(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.poll()


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
