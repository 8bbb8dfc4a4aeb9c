"""A history file through Kafka and the running job, and what the ledger says about it afterwards.

Composition only: the file comes from ``serving.history``, the load from ``generator.driver``, the truth from the ledger.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from fraud.errors import InvalidEvent
from fraud.events import decision_id
from generator.driver import Driver, Run, interleave
from infra.percentiles import percentiles_ms
from serving import ledger
from serving.codec import Codec
from serving.decision_file import DecisionFile
from serving.history import labels_from_history, read_history, tenant_of
from serving.records import Decision

__all__ = ["LedgerView", "read_for_replay", "replay", "watch_ledger"]

DAY_MS = 86_400_000
LABEL_DELAY_MS = 7 * DAY_MS
_QUIET_S = 30.0  # after so long without a new committed record what is missing is lost


@dataclass(slots=True)
class LedgerView:
    """What the ledger holds of the transactions that were sent."""

    decided: int = 0
    duplicates: int = 0
    foreign: int = 0
    refused: dict[str, str] = field(default_factory=dict)  # decision id -> code of its dead letter
    alerts: int = 0
    late: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    models: set[str | None] = field(default_factory=set)
    rule_sets: set[str | None] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)


def read_for_replay(path: Path, mapping: str | None, *, limit: int | None, tenant: str | None) -> pl.DataFrame:
    """A history file; rows of one that names no tenant get ``tenant``, or else one named after the file."""
    frame = read_history(path, mapping, limit=limit, tenant_id=tenant)
    if tenant is None and frame["tenant_id"].n_unique() <= 1 and frame["tenant_id"].first() == "default":
        frame = frame.with_columns(pl.lit(tenant_of(path)).alias("tenant_id"))
    return frame


def watch_ledger(
    bootstrap: str,
    codec: Codec,
    sent: Mapping[str, str],
    *,
    take: Callable[[Decision], None] = lambda _decision: None,
    on_progress: Callable[[int], None] = lambda _found: None,
    quiet_s: float = _QUIET_S,
) -> LedgerView:
    """Read the ledger from its start until every sent decision is in it, or nothing new came for ``quiet_s``.

    Args:
        bootstrap: Kafka.
        codec: decodes decisions.
        sent: decision id to transaction id of what was sent.
        take: called once with each decision of ``sent``.
        on_progress: called with the number found so far.
        quiet_s: patience.
    """
    view = LedgerView()
    seen: set[str] = set()
    reader = ledger.consumer(bootstrap)
    try:
        reader.assign(ledger.partitions_of(reader, (ledger.DECISIONS, ledger.DEAD_LETTERS, ledger.ALERTS)))
        last_new_s = time.monotonic()
        settle = False
        while time.monotonic() - last_new_s < quiet_s:
            batch = reader.consume(2_000, timeout=0.5)
            # one empty poll after the last decision: what follows it in the same transaction counts too
            if not batch and settle:
                break
            for message in batch:
                if message.error() is not None:
                    continue
                if message.topic() == ledger.DECISIONS:
                    decision = codec.decode_decision(message.value())
                    if decision.decision_id not in sent:
                        view.foreign += 1
                        continue
                    last_new_s = time.monotonic()
                    if decision.decision_id in seen:
                        view.duplicates += 1
                        continue
                    seen.add(decision.decision_id)
                    _count(view, decision)
                    take(decision)
                elif message.topic() == ledger.DEAD_LETTERS:
                    last_new_s = time.monotonic()
                    _refuse(view, codec, message.value(), sent)
                else:
                    view.alerts += codec.decode_alert(message.value()).decision_id in sent
            on_progress(len(seen))
            settle = len(seen) + len(view.refused) >= len(sent)
    finally:
        reader.close()
    view.missing = [transaction for decision, transaction in sent.items() if decision not in seen and decision not in view.refused]
    return view


def _refuse(view: LedgerView, codec: Codec, value: bytes | None, sent: Mapping[str, str]) -> None:
    """Match a dead letter with what was sent, where its payload still tells which transaction it was."""
    letter = codec.decode_dead_letter(value)
    try:
        tx = codec.decode_transaction(letter.value)
    except InvalidEvent:
        return
    identity = decision_id(tx.tenant_id, tx.transaction_id)
    if identity in sent:
        view.refused[identity] = letter.code


def _count(view: LedgerView, decision: Decision) -> None:
    view.decided += 1
    view.late += decision.late_event
    view.outcomes[decision.outcome] += 1
    view.models.add(decision.model_sha256)
    view.rule_sets.add(decision.rule_set_hash)


def replay(
    bootstrap: str,
    codec: Codec,
    frame: pl.DataFrame,
    *,
    rate: float | None,
    with_labels: bool,
    label_delay_ms: int = LABEL_DELAY_MS,
    decisions: Path | None = None,
    on_sent: Callable[[Run], None] = lambda _run: None,
    on_committed: Callable[[int], None] = lambda _found: None,
) -> dict[str, Any]:
    """Send a history, collect its committed decisions, and report; see the keys of the result.

    A transaction that an earlier replay sent is a duplicate to the stream; its decision of then is found in the ledger and
    counts as decided.
    """
    labels = labels_from_history(frame, label_delay_ms) if with_labels else None
    driver = Driver(bootstrap, codec, on_progress=on_sent)
    run = driver.run(interleave(frame, labels, rate), paced=rate is not None)
    if decisions is None:
        view = watch_ledger(bootstrap, codec, run.sent_ids, on_progress=on_committed)
    else:
        with DecisionFile(decisions) as file:
            view = watch_ledger(bootstrap, codec, run.sent_ids, take=file.add, on_progress=on_committed)
    return {
        "sent": run.sent,
        "distinct": len(run.sent_ids),
        "labels_sent": run.labels_sent,
        "answered": run.answered,
        "already_decided": view.decided - run.answered if view.decided > run.answered else 0,
        "committed": view.decided,
        "lost": len(view.missing),
        "lost_examples": view.missing[:5],
        "duplicates": view.duplicates,
        "late": view.late,
        "alerts": view.alerts,
        "dead_letters": dict(Counter(view.refused.values())),
        "seconds": round(run.seconds, 3),
        "rate": round(run.rate, 1),
        # without a rate latency is queueing in front of the job, which says nothing
        "latency_ms": percentiles_ms(run.latencies_ms) if rate else {},
        "outcomes": dict(sorted(view.outcomes.items())),
        "models": sorted(filter(None, view.models)),
        "rule_sets": sorted(filter(None, view.rule_sets)),
        "decisions": None if decisions is None else str(decisions),
    }
