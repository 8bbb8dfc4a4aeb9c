"""What people look at, with something to see: a front with its servers, ClickHouse, and an hour of traffic that the operators decided.

Every decision went through the cores of the scoring job and the rows of the sink; a share of them is said to have come through the API.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from confluent_kafka import Producer

from analytics.backtest import backtest
from analytics.ledger_rows import LedgerRows, Value
from analytics.store import Store
from fraud.events import Label, Transaction
from fraud.rules import RuleSet
from generator.driver import interleave
from generator.generate import demo_traffic, labels
from infra.backtest import keep_report
from infra.first_model import train_first_model
from serving import ledger
from serving.clock import now_ms
from serving.records import Decision
from tests.api_stack import ApiStack
from tests.clickhouse_engine import READER_PASSWORD, ClickHouseEngine
from tests.contract.backtest_world import SHIPPED, VELOCITY, Recorded, release, sent, with_rules
from tests.contract.pipeline import ENRICHER, Pipeline, codec

TENANT, OTHER = "default", "other"  # the operator's, whose people see backtests too, and another one
HOSTILE = "<script>alert('x')</script>"  # the name of a merchant of the other tenant
MINUTE_MS = 60_000
_TRAFFIC_MINUTES = 40  # of the hour that the overview shows: the tests have the rest of it
_DRAWN_AT_MS = 1_760_000_000_000  # the traffic is the same whenever the tests run, and then moved to now
_SEED = 11
_UNREAD = 3  # records that the ledger has and ClickHouse has not
RULES = with_rules(SHIPPED, {**VELOCITY, "when": "card_distinct_merchant_37m >= 5 and amount_usd > 5"})


@dataclass(frozen=True)
class PagesWorld:
    """``decisions`` are those of :data:`TENANT`, oldest first; ``secrets`` are names that only :data:`OTHER` may see."""

    stack: ApiStack
    engine: ClickHouseEngine
    decisions: list[Decision]
    labels: dict[str, bool]
    secrets: list[str]
    report: str

    def token(self, role: str = "analyst", tenant: str = TENANT) -> str:
        from api.identity import Role

        return self.stack.access.issue_token(tenant, "ann", Role(role))


@contextmanager
def pages_world(folder: Path) -> Iterator[PagesWorld]:
    """Everything started and filled; what runs ends with it."""
    engine = ClickHouseEngine(folder / "house")
    house = {"URL": engine.url, "PASSWORD": READER_PASSWORD}
    stack = ApiStack(folder / "home", {f"FRAUDGUARD_API_CLICKHOUSE_{name}": value for name, value in house.items()})
    try:
        engine.start()
        engine.migrate()
        stack.up()
        recorded = play(folder / "models", now_ms())
        decisions, known = fill(engine, recorded)
        leave_unread(stack)
        report = write_report(stack, recorded)
        mine = [one for one in decisions if one.tenant_id == TENANT]
        theirs = [one for one in decisions if one.tenant_id == OTHER]
        secrets = [name for one in theirs for name in (one.decision_id, one.transaction_id, one.transaction.card_id)]
        yield PagesWorld(stack, engine, mine, known, secrets, report)
    finally:
        stack.down()
        engine.kill()


def play(models: Path, until_ms: int) -> Recorded:
    """Decisions and applied labels of the last :data:`_TRAFFIC_MINUTES` minutes."""
    start_ms = until_ms - (_TRAFFIC_MINUTES + 2) * MINUTE_MS
    model = train_first_model(models, ENRICHER, say=lambda _text: None, start_ms=_DRAWN_AT_MS, rows=8_000, seed=_SEED).sha256
    pipeline = Pipeline(shards=2, seed=_SEED, now_ms=until_ms, rules=SHIPPED.to_json(), models=models, model=model)
    for shard in range(2):
        pipeline.send(shard, [release(RULES, 1)])
    rows = []
    for number, event in enumerate(_events(start_ms)):
        shard, record = sent(event, number, 2)
        pipeline.send(shard, [record])
        rows += pipeline.drain()
    return Recorded([(row.topic, row.value) for row in rows], {rules.hash: rules for rules in (SHIPPED, RULES)}, models)


def _events(start_ms: int) -> Iterator[Transaction | Label]:
    drawn = demo_traffic(_TRAFFIC_MINUTES * 60.0, 0.5, seed=_SEED, start_ms=_DRAWN_AT_MS, users=260, merchants=40, fraud_rate=0.1)
    frame = drawn.with_columns(pl.col("event_time_ms") + (start_ms - _DRAWN_AT_MS))
    known = labels(frame, seed=_SEED, time_scale=1e-4, cleared_share=0.3)
    for number, one in enumerate(interleave(frame, known, None)):
        event = one.record
        if number % 12 == 0 and isinstance(event, Transaction):
            event = replace(
                event,
                merchant_name=HOSTILE,
                tenant_id=OTHER,
                transaction_id=f"theirs-{number}",
                card_id=f"their-card-{number % 5}",
                merchant_id="their-merchant",
            )
        yield event


def fill(engine: ClickHouseEngine, recorded: Recorded) -> tuple[list[Decision], dict[str, bool]]:
    """Write the rows as the sink does, each recorded a moment after its event; returns the decisions, and the labels by decision."""
    wire, rng, rows, store = codec(), random.Random(_SEED), LedgerRows(codec()), Store(engine.settings)
    decisions, values, applied, known = [], [], [], {}
    for topic, value in recorded.records:
        if topic == ledger.DECISIONS:
            one = wire.decode_decision(value)
            if rng.random() < 0.4:
                one = replace(one, door="api", latency_ms=round(2.5 + rng.expovariate(0.4), 2))
            decisions.append(one)
            values.append(Value(0, len(values), one.event_time_ms + rng.randrange(150, 1_500), wire.encode_decision(one)))
        elif topic == ledger.LABELS_APPLIED:
            label = wire.decode_label_applied(value)
            applied.append(Value(0, len(applied), label.label_time_ms, value))
            known[label.transaction_id] = label.is_fraud
    store.write(rows.decisions(values).tables, "decisions")
    store.write(rows.labels(applied).tables, "labels")
    store.close()
    return sorted(decisions, key=lambda one: one.event_time_ms), known


def leave_unread(stack: ApiStack) -> None:
    producer = Producer({"bootstrap.servers": stack.plan.addresses.bootstrap_servers})
    for number in range(_UNREAD):
        producer.produce(ledger.DECISIONS, str(number).encode())
    assert producer.flush(30) == 0


def write_report(stack: ApiStack, recorded: Recorded) -> str:
    """A backtest of a draft that asks for one thing more than what was live; returns the report's name."""
    more = {**VELOCITY, "id": "velocity_tried", "reason_code": "TRIED", "when": "card_distinct_merchant_37m >= 2 and amount_usd > 50"}
    draft: RuleSet = with_rules(RULES, more)
    result = backtest(recorded.history(), draft, rules_of=recorded.rules_of, model_of=recorded.model_of)
    return keep_report(stack.plan, result)
