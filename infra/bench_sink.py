"""``bench sink``: how fast the committed ledger reaches ClickHouse, and how old a decision is when it is there.

A stack of its own with everything running and nothing to do: decisions of the model and the rules are put into the ledger as the job
commits them, in transactions.  First a backlog, which shows what the sink takes; then a steady rate, at which its delay is read from its
own metrics, as an alert would.
"""

from __future__ import annotations

import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer

from analytics.connection import connect
from fraud.errors import Unavailable
from fraud.events import decision_id
from infra.application import codec_of
from infra.bench_basis import Traffic, machine, model_and_enricher
from infra.bench_features import decide
from infra.house import ensure_schema, wait_until_caught_up
from infra.house_access import house_settings
from infra.ports import HOST
from infra.settings import StackSettings
from infra.stack import Stack
from serving import ledger
from serving.clock import now_ms
from serving.codec import Codec
from serving.records import Decision

__all__ = ["SinkBenchOptions", "run"]

_SEED = 7
_DECIDED = 20_000  # of the model; a backlog repeats them under other identities
_COMMIT_EVERY_S = 1.0  # as the job's checkpoints do
_PATIENCE_S = 180.0
_TABLES = ("transactions", "decisions", "rule_hits", "reasons")
_DELAY = re.compile(r"^fraud_sink_delay_seconds (\S+)$", re.MULTILINE)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SinkBenchOptions:
    """``backlog`` decisions at once, then ``rate`` decisions/s for ``seconds``."""

    backlog: int = 200_000
    rate: float = 1_000.0
    seconds: float = 20.0


def run(home: Path, options: SinkBenchOptions, say: Say) -> dict[str, Any]:
    """Measure on a stack below ``home``, which is removed afterwards.

    Raises:
        Unavailable: a server does not start, or the sink does not keep up at all.
    """
    model, enricher = model_and_enricher(Stack(home), say)
    transactions = Traffic.before(now_ms(), _SEED).payments(_DECIDED)
    for tx in transactions:
        enricher.enrich(tx)
    say(f"{len(transactions):,} decisions of the model and the rules")
    decisions = decide(model, transactions)
    stack = Stack(home / "bench-sink", StackSettings.on_free_ports(jars_dir=home / "jars", analytics=True))
    stack.layout.home.mkdir(parents=True, exist_ok=True)
    try:
        stack.up(say)
        if not stack.addresses.clickhouse_url:
            raise Unavailable("clickhouse", "chdb does not run on this machine")
        ensure_schema(stack.plan)
        feed = _Feed(stack.addresses.bootstrap_servers, codec_of(stack.plan), decisions)
        return {**_backlog(stack, feed, options, say), **_paced(stack, feed, options, say), "machine": machine()}
    finally:
        stack.down(wipe=True)
        shutil.rmtree(stack.layout.home, ignore_errors=True)


def _backlog(stack: Stack, feed: _Feed, options: SinkBenchOptions, say: Say) -> dict[str, Any]:
    feed.commit(_DECIDED // 10)  # the sink has every import and connection it needs
    wait_until_caught_up(stack.plan, patience_s=_PATIENCE_S)
    before = _rows(stack)
    say(f"a backlog of {options.backlog:,}")
    feed.commit(options.backlog)
    seconds = wait_until_caught_up(stack.plan, patience_s=_PATIENCE_S)
    rows = _rows(stack) - before
    return {
        "backlog_decisions": options.backlog,
        "seconds": round(seconds, 2),
        "decisions_per_s": round(options.backlog / seconds),
        "rows_per_s": round(rows / seconds),
        "rows_per_decision": round(rows / options.backlog, 2),
    }


def _paced(stack: Stack, feed: _Feed, options: SinkBenchOptions, say: Say) -> dict[str, Any]:
    say(f"{options.rate:,.0f} decisions/s for {options.seconds:g} s")
    delays_s, began_s = [], time.monotonic()
    for number in count(1):
        feed.commit(round(options.rate * _COMMIT_EVERY_S))
        delays_s.append(_delay_s(stack))
        left_s = began_s + number * _COMMIT_EVERY_S - time.monotonic()
        time.sleep(max(0.0, left_s))
        if number * _COMMIT_EVERY_S >= options.seconds:
            break
    wait_until_caught_up(stack.plan, patience_s=_PATIENCE_S)
    settled = sorted(delays_s[len(delays_s) // 5 :])
    return {"rate": options.rate, "delay_s": {"median": round(settled[len(settled) // 2], 2), "max": round(settled[-1], 2)}}


def _rows(stack: Stack) -> int:
    with connect(house_settings(stack.plan)) as client:
        return sum(int(client.query(f"SELECT count() FROM {table}").result_rows[0][0]) for table in _TABLES)  # noqa: S608 - our names


def _delay_s(stack: Stack) -> float:
    url = f"http://{HOST}:{stack.plan.settings.sink_metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = _DELAY.search(answer.read().decode())
    return float(found.group(1)) if found else 0.0


class _Feed:
    """Decisions into the ledger, each under an identity that nobody had before."""

    def __init__(self, bootstrap: str, codec: Codec, decisions: Sequence[Decision]) -> None:
        self._codec = codec
        self._fresh = _renamed(decisions)
        # log_level: the broker goes before this process does
        self._producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "bench-sink", "linger.ms": 5, "log_level": 0})
        self._producer.init_transactions(30)

    def commit(self, decisions: int) -> None:
        """Put so many into the ledger, in one transaction."""
        try:
            self._producer.begin_transaction()
            for _ in range(decisions):
                one = next(self._fresh)
                self._producer.produce(ledger.DECISIONS, self._codec.encode_decision(one), one.transaction.card_id)
                self._producer.poll(0)
            self._producer.commit_transaction(60)
        except KafkaException as error:
            raise Unavailable("kafka", str(error)) from error


def _renamed(decisions: Sequence[Decision]) -> Iterator[Decision]:
    for turn in count():
        for one in decisions:
            name = f"{one.transaction_id}-{turn}"
            transaction = replace(one.transaction, transaction_id=name)
            yield replace(one, transaction=transaction, transaction_id=name, decision_id=decision_id(one.tenant_id, name))
