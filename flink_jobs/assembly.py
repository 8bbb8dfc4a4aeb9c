"""Builds the three cores on a worker, from settings that travelled with the job.

The only place of this package that opens connections and files; everything else receives its collaborators.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flink_jobs.entities import EntityLogs
from flink_jobs.handover import Handover
from flink_jobs.infer import Infer
from flink_jobs.ingest import Ingest
from flink_jobs.observe import Observe
from flink_jobs.refusals import DEFAULT_LIMITS, RefusalLimits
from fraud.catalogue import CATALOGUE
from fraud.events import Transaction
from fraud.vector import Evaluator
from serving.blacklist import Blacklist
from serving.clock import now_ms
from serving.codec import Codec
from serving.enrich import Enricher
from serving.online_feed import OnlineFeed
from serving.online_healing import Healing
from serving.online_store import OnlineStore
from serving.online_writer import BufferedWriter
from serving.registry import HttpRegistry
from serving.scoring import Scorer
from serving.shadow import ShadowLane
from serving.stream_metrics import StreamMetrics
from serving.validate import Validator
from serving.versions import ControlledVersions

__all__ = ["CoreSettings", "build_infer", "build_ingest", "build_observe"]

COPIED_MAPS = ("cards", "entities")  # of the first and of the second operator: the online store holds a copy


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What the cores need to know; plain values, as they travel as JSON.

    ``started_ms`` is the submission's wall clock: it numbers the attempts of the job in the online store.
    """

    shards: int
    schema_ids: Mapping[str, int]
    registry_url: str
    redis_url: str
    models_dir: str
    ip_hash_key_file: str
    default_rules: str | None
    default_model: str | None
    code_version: str
    city_db: str | None = None
    asn_db: str | None = None
    out_of_orderness_ms: int = 60_000
    idle_ms: int = 30_000
    cache_entries: int = 200_000  # of each operator; a read past it crosses into the JVM, 0.1 ms beside other operators
    refusals: RefusalLimits | None = DEFAULT_LIMITS  # None: the dead letters take whatever comes


def build_ingest(settings: CoreSettings, metrics: StreamMetrics) -> Ingest:
    """Core of the first operator."""
    return Ingest(
        _codec(settings),
        Validator(),
        _enricher(settings),
        _logs(settings, Evaluator(), metrics, "cards"),
        CATALOGUE,
        _shared_handover(),
        shards=settings.shards,
        out_of_orderness_ms=settings.out_of_orderness_ms,
        idle_ms=settings.idle_ms,
        refusals=settings.refusals,
        now_ms=now_ms,
        metrics=metrics,
    )


def build_observe(settings: CoreSettings, metrics: StreamMetrics) -> Observe:
    """Core of the second operator."""
    evaluator = Evaluator()
    return Observe(_logs(settings, evaluator, metrics, "entities"), evaluator)


def build_infer(settings: CoreSettings, metrics: StreamMetrics) -> Infer:
    """Core of the third operator."""
    codec = _codec(settings)
    blacklist = Blacklist(settings.redis_url)

    def blacklisted(transactions: Sequence[Transaction]) -> list[list[str]]:
        blacklist.refresh({tx.tenant_id for tx in transactions}, time.monotonic())
        return blacklist.lists_of(transactions)

    return Infer(
        codec,
        Scorer("stream", settings.code_version),
        ControlledVersions(codec, Path(settings.models_dir), settings.default_rules, settings.default_model),
        CATALOGUE,
        _shared_handover(),
        shadow=ShadowLane(metrics.shadowed),
        blacklisted=blacklisted,
        now_ms=now_ms,
        metrics=metrics,
    )


def _codec(settings: CoreSettings) -> Codec:
    return Codec(settings.schema_ids, HttpRegistry(settings.registry_url).schema_by_id)


def _logs(settings: CoreSettings, evaluator: Evaluator, metrics: StreamMetrics, name: str) -> EntityLogs:
    store = OnlineStore(settings.redis_url, timeout_s=0.25)

    def report(writer: BufferedWriter) -> None:
        metrics.online_store(writer.written, writer.refused, writer.dropped, writer.failed_flushes, writer.waiting)
        metrics.healing(writer.put_again_rows, healing.begun, healing.unhealed)

    healing = Healing(store, name, len(COPIED_MAPS) * settings.shards)
    feed = OnlineFeed(BufferedWriter(store, started_ms=now_ms()), report=report, healing=healing)
    return EntityLogs(evaluator, feed, settings.cache_entries)


def _enricher(settings: CoreSettings) -> Enricher:
    return _shared_enricher(settings.ip_hash_key_file, settings.city_db, settings.asn_db)


@cache
def _shared_handover() -> Handover:
    """One a process: what one operator has decoded the other finds there."""
    return Handover()


@cache
def _shared_enricher(key_file: str, city_db: str | None, asn_db: str | None) -> Enricher:
    """One a process: its country data takes 50 MB."""
    databases = [Path(path) if path else None for path in (city_db, asn_db)]
    return Enricher(Path(key_file).read_bytes(), *databases)
