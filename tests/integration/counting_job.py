"""The scoring job's topology with operators that only count, so that a record lost, repeated, swapped or altered shows.

``ingest`` numbers the records of each card and sends each to the shard that its offset names, ``observe`` numbers the records of
that shard and sends them home, ``infer`` writes both numbers with a digest of what was read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from flink_jobs import score
from flink_jobs.assembly import CoreSettings
from flink_jobs.cores import ByteMap, OutRow, Part, Record
from flink_jobs.ingest import CONTROL
from flink_jobs.operators import InferOperator, IngestOperator, ObserveOperator
from flink_jobs.settings import JobSettings
from infra import scoring_job
from infra.jobs import JobTicket
from infra.plan import Plan
from serving import ledger
from serving.stream_metrics import StreamMetrics
from tests.core_settings import core_settings

SHARDS = 4


def digest(data: bytes | None) -> str | None:
    return None if data is None else sha256(data).hexdigest()[:16]


class _Uncopied:
    """No online store behind: the timers of healing come and go all the same."""

    def own(self, shards: list[int]) -> None:
        assert set(shards) <= set(range(SHARDS))

    def heal(self, _shard: int, _maps: Mapping[str, ByteMap]) -> int:
        return 100


class CountingIngest(_Uncopied):
    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], int] = {}

    def process(self, shard: int, records: Sequence[Record], maps: Mapping[str, ByteMap]) -> list[Part]:
        if records[0].source in CONTROL:
            return [Part(shard, json.dumps({"control": r.source, "value": r.value and r.value.decode()}).encode()) for r in records]
        targets: list[list[dict[str, Any]]] = [[] for _ in range(SHARDS)]
        for record in records:
            card = (record.key or b"").decode("latin-1")
            number = _next_number(self._seen, shard, card, maps["cards"])
            targets[record.offset % SHARDS].append(
                {
                    "topic": record.source,
                    "partition": record.partition,
                    "offset": record.offset,
                    "timestamp_ms": record.timestamp_ms,
                    "card": None if record.key is None else card,
                    "value": digest(record.value),
                    "home": shard,
                    "card_number": number,
                },
            )
        return [Part(target, json.dumps(rows).encode()) for target, rows in enumerate(targets) if rows]


class CountingObserve(_Uncopied):
    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], int] = {}

    def process(self, shard: int, payload: bytes, maps: Mapping[str, ByteMap]) -> list[Part]:
        rows = json.loads(payload)
        if isinstance(rows, dict):
            return [Part(shard, payload)]
        for row in rows:
            row["shard"] = shard
            row["shard_number"] = _next_number(self._seen, shard, "all", maps["entities"])
        return [Part(rows[0]["home"], json.dumps(rows).encode())]


class CountingInfer:
    def process(self, shard: int, payload: bytes, maps: Mapping[str, ByteMap]) -> list[OutRow]:
        rows = json.loads(payload)
        if isinstance(rows, dict):
            maps["control"].put(rows["control"], b"%d:%s" % (shard, (rows["value"] or "none").encode()))
            return []
        rules = maps["control"].get("rules")
        out: list[OutRow] = []
        for row in rows:
            if row["home"] != shard:
                raise AssertionError(row)
            value = json.dumps({**row, "rules": rules and rules.decode()}).encode()
            out.append(OutRow(_topic_of(row), None if row["card"] is None else b"k", value))
        return out


def _next_number(seen: dict[tuple[int, str], int], shard: int, name: str, state: ByteMap) -> int:
    number = seen.get((shard, name)) or int(state.get(name) or b"0")
    seen[shard, name] = number + 1
    state.put(name, b"%d" % (number + 1))
    return number + 1


def _topic_of(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return ledger.DEAD_LETTERS
    return ledger.LABELS_APPLIED if row["topic"] == ledger.LABELS else ledger.DECISIONS


def _builder(core: type) -> Callable[[CoreSettings, StreamMetrics], Any]:
    return lambda _settings, _metrics: core()


class CountingIngestOperator(IngestOperator):
    maps = ("cards",)
    build = staticmethod(_builder(CountingIngest))


class CountingObserveOperator(ObserveOperator):
    maps = ("entities",)
    build = staticmethod(_builder(CountingObserve))


class CountingInferOperator(InferOperator):
    maps = ("control",)
    build = staticmethod(_builder(CountingInfer))


OPERATORS = score.Operators(CountingIngestOperator, CountingObserveOperator, CountingInferOperator)


def resume(plan: Plan, ticket: JobTicket, checkpoint: str | None) -> str:
    """Entry of the job's ticket."""
    settings = JobSettings(
        bootstrap_servers=plan.addresses.bootstrap_servers,
        flink_port=plan.settings.flink_port,
        core=core_settings(SHARDS),
        taskmanagers=int(ticket.arguments[0]),
        restore_from=checkpoint,
    )
    return scoring_job.submit(plan, ticket.name, "tests.integration.counting_job", settings.model_dump_json())


if __name__ == "__main__":
    # imported by its name, so that the operators are pickled by reference and not by value
    from tests.integration import counting_job

    print(score.submit(JobSettings.model_validate_json(Path(sys.argv[1]).read_text()), counting_job.OPERATORS))
