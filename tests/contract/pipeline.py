"""The three operators of the scoring job without Flink: same cores, dict-backed state, deliveries in any order a network allows.

A part reaches the next operator in order per (sender, receiver) pair and in no other order, as between Flink's subtasks.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from flink_jobs.cores import OutRow, Part, Record
from flink_jobs.entities import EntityLogs
from flink_jobs.handover import Handover
from flink_jobs.infer import Infer
from flink_jobs.ingest import Ingest
from flink_jobs.observe import Observe
from flink_jobs.refusals import RefusalLimits
from fraud.catalogue import CATALOGUE
from fraud.events import Transaction
from fraud.rules import RuleSet
from fraud.vector import Evaluator
from serving.codec import Codec
from serving.enrich import Enricher
from serving.online_feed import OnlineFeed
from serving.online_healing import Healing
from serving.online_writer import BufferedWriter
from serving.schemas import SCHEMAS
from serving.scoring import Scorer
from serving.shadow import ShadowLane
from serving.stream_metrics import StreamExporter
from serving.validate import Validator
from serving.versions import ControlledVersions
from tests.online_store_contract import MemoryOnlineStore

# its address table takes a second to load
ENRICHER = Enricher(b"a key for the tests alone")
NO_RULES = RuleSet([], CATALOGUE.index).to_json()


def transaction(rng: random.Random, number: int, time_ms: int) -> Transaction:
    """One of a few cards, users and merchants, with what it has left to chance; number and time are the caller's."""
    tx = Transaction(
        transaction_id=f"t{number}",
        tenant_id=rng.choice(["default", "acme"]),
        card_id=f"card{rng.randrange(12)}",
        merchant_id=f"m{rng.randrange(5)}",
        amount_minor=rng.randrange(1, 300_000),
        currency=rng.choice(["USD", "EUR", "JPY"]),
        event_time_ms=time_ms,
        user_id=rng.choice([None, "u1", "u2", "u3"]),
        device_id=rng.choice([None, "d1", "d2"]),
        ip_address=rng.choice([None, "8.8.8.8", "1.1.1.1"]),
        channel=rng.choice([None, "pos", "online"]),
        declined=rng.random() < 0.1,
        merchant_mcc=rng.choice([None, 5411, 5999]),
        lat=rng.choice([None, 48.2, 40.7]),
        lon=16.4,
        country=rng.choice([None, "AT", "US"]),
        card_country="AT",
    )
    if tx.lat is None:
        tx.lon = None
    return tx


class DictMap:
    """A ByteMap over a dict that can be copied: what a checkpoint keeps."""

    def __init__(self, entries: dict[str, bytes] | None = None) -> None:
        self.entries = dict(entries or {})

    def get(self, key: str) -> bytes | None:
        return self.entries.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.entries[key] = value

    def put_all(self, entries: Mapping[str, bytes]) -> None:
        self.entries.update(entries)

    def remove(self, key: str) -> None:
        self.entries.pop(key, None)

    def items(self) -> Iterable[tuple[str, bytes]]:
        return list(self.entries.items())

    def scan(self) -> Iterator[tuple[str, bytes]]:
        # as RocksDB's: by key, from where it was, whatever has been written meanwhile
        last = ""
        while key := min((key for key in self.entries if key > last), default=""):
            yield key, self.entries[key]
            last = key


def codec() -> Codec:
    return Codec({name: i for i, name in enumerate(SCHEMAS, start=1)})


class Pipeline:
    """A job of ``shards`` shards, one subtask each; ``seed`` chooses among the allowed orders of delivery.

    With a ``store`` the states are copied to it, by turns that come whenever chance wants them.
    """

    versions: type[ControlledVersions] = ControlledVersions

    def __init__(
        self,
        shards: int = 3,
        seed: int = 0,
        now_ms: int = 2_000_000_000_000,
        rules: str = NO_RULES,
        limits: RefusalLimits | None = None,
        models: Path | None = None,
        model: str | None = None,
        store: MemoryOnlineStore | None = None,
        cache_entries: int = 100,
    ) -> None:
        self.codec = codec()
        self.shards = shards
        self.exporter = StreamExporter(lambda: 0)
        self._random = random.Random(seed)
        self._now_ms = now_ms
        self._rules = rules
        self._limits = limits
        self._models, self._model = models, model
        self._store, self._cache_entries = store, cache_entries
        self._feeds: list[OnlineFeed] = []
        self._clock_s = 0.0
        names = ("cards", "entities", "control")
        self.maps = [{name: DictMap() for name in names} for _ in range(shards)]
        self._channels: dict[tuple[str, int, int], deque[bytes]] = defaultdict(deque)
        self._build()
        self.checkpoint()

    def _build(self) -> None:
        # a handover that is too small for what is in flight: some batches are taken from it and some decoded
        handover = Handover(capacity=2)

        for feed in self._feeds:
            feed.close()
        self._feeds = []

        def logs(name: str) -> EntityLogs:
            return EntityLogs(Evaluator(), None if self._store is None else self._feed(name, self._store), self._cache_entries)

        self.ingest = [
            Ingest(
                self.codec,
                Validator(),
                ENRICHER,
                logs("cards"),
                CATALOGUE,
                handover,
                shards=self.shards,
                out_of_orderness_ms=60_000,
                idle_ms=30_000,
                refusals=self._limits,
                now_ms=lambda: self._now_ms,
                metrics=self.exporter.new_metrics(),
            )
            for _ in range(self.shards)
        ]
        self.observe = [Observe(logs("entities"), Evaluator()) for _ in range(self.shards)]
        self.infer = [self._infer(handover) for _ in range(self.shards)]
        for shard in range(self.shards):
            self.ingest[shard].own([shard])
            self.observe[shard].own([shard])

    def _infer(self, handover: Handover) -> Infer:
        metrics = self.exporter.new_metrics()
        return Infer(
            self.codec,
            Scorer("stream", "test"),
            self.versions(self.codec, self._models or Path(), self._rules, self._model),
            CATALOGUE,
            handover,
            shadow=ShadowLane(metrics.shadowed, work=lambda: 0.0),
            blacklisted=lambda transactions: [[] for _ in transactions],
            now_ms=lambda: self._now_ms,
            metrics=metrics,
        )

    def _feed(self, name: str, store: MemoryOnlineStore) -> OnlineFeed:
        """One whose writes :meth:`heal` makes."""
        self._clock_s += 1
        writer = BufferedWriter(store, int(self._clock_s), clock=lambda: self._clock_s)
        healing = Healing(store, name, 2 * self.shards, clock=lambda: self._clock_s)
        self._feeds.append(OnlineFeed(writer, interval_s=threading.TIMEOUT_MAX, healing=healing))
        return self._feeds[-1]

    def heal(self) -> None:
        """Give each operator one of its turns."""
        self._clock_s += 1
        for shard in range(self.shards):
            self.ingest[shard].heal(shard, self.maps[shard])
            self.observe[shard].heal(shard, self.maps[shard])
        for feed in self._feeds:
            feed._write()

    def checkpoint(self) -> list[OutRow]:
        """What an aligned checkpoint does: everything that was sent before it passes through, then every state is kept."""
        rows = self.drain()
        self._kept = [{name: DictMap(entries.entries) for name, entries in maps.items()} for maps in self.maps]
        return rows

    def count_of(self, name: str, **labels: str) -> float:
        """What the metrics say of one series."""
        samples = (sample for family in self.exporter.collect() for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name and sample.labels == labels)

    def crash(self) -> None:
        """Forget what is in flight and go back to the states of the last checkpoint, with new operators."""
        self._channels.clear()
        self.maps = [{name: DictMap(entries.entries) for name, entries in maps.items()} for maps in self._kept]
        self._build()

    def send(self, shard: int, records: Sequence[Record]) -> None:
        """Hand one batch of records to a shard's first operator."""
        for part in self.ingest[shard].process(shard, records, self.maps[shard]):
            self._channels["observe", shard, part.shard].append(part.payload)

    def drain(self, deliveries: int | None = None) -> list[OutRow]:
        """Deliver what is in flight in a random allowed order, all of it or so many payloads; returns what came out."""
        rows: list[OutRow] = []
        while deliveries is None or deliveries > 0:
            ready = [channel for channel, queue in self._channels.items() if queue]
            if not ready:
                break
            if self._store is not None and self._random.random() < 0.1:
                self.heal()
            stage, _, shard = channel = self._random.choice(ready)
            payload = self._channels[channel].popleft()
            if stage == "observe":
                for part in self.observe[shard].process(shard, payload, self.maps[shard]):
                    self._channels["infer", shard, part.shard].append(part.payload)
            else:
                rows += self.infer[shard].process(shard, payload, self.maps[shard])
            if deliveries is not None:
                deliveries -= 1
        return rows


def record(value: bytes | None, key: str | None, *, source: str = "transactions", partition: int = 0, offset: int = 0) -> Record:
    """A Kafka record as the first operator gets it."""
    return Record(source, partition, offset, 1_700_000_000_000 + offset, None if key is None else key.encode(), value)


__all__ = ["DictMap", "OutRow", "Part", "Pipeline", "codec", "record"]


def run_through(
    pipeline: Pipeline, records: list[tuple[int, Record]], rng: random.Random, *, crash_every: int | None = None
) -> list[OutRow]:
    """What is committed; every so often comes a checkpoint, or a crash, after which all since the last checkpoint is read again."""
    committed: list[OutRow] = []
    rows: list[OutRow] = []
    waiting = unread = list(records)
    steps = 0
    while waiting:
        shard = waiting[0][0]
        size = rng.randrange(1, 8)
        batch = [r for s, r in waiting[: 3 * size] if s == shard][:size]
        taken = set(map(id, batch))
        waiting = [pair for pair in waiting if id(pair[1]) not in taken]
        pipeline.send(shard, batch)
        rows += pipeline.drain(rng.randrange(0, 12))
        steps += 1
        if crash_every and steps % crash_every == 0:
            if rng.random() < 0.6:
                committed += rows + pipeline.checkpoint()
                unread = waiting
            else:
                pipeline.crash()
                waiting = unread
            rows = []
    return committed + rows + pipeline.drain()
