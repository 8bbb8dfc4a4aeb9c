"""The report on a challenger, over the real engine, against a recount of what the operators put out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import pytest

from analytics.ledger_rows import LedgerRows, Value
from analytics.reader import Reader, ReaderAccount
from analytics.shadow import UnknownChallenger, challengers, shadow_report
from analytics.store import Store
from fraud.currency import to_base_minor
from serving import ledger
from serving.clock import now_ms
from serving.records import Decision, ShadowDecision
from tests.clickhouse_engine import ClickHouseEngine
from tests.contract.backtest_world import SHIPPED, publish_model, traffic
from tests.contract.pipeline import codec
from tests.contract.test_shadow import DRAFT, decisions_in, model_record, play, publish_challenger, rules_record, shadows_in

TENANT = "acme"


@dataclass
class Tried:
    """What was put out of one tenant's payments, and the reader of the engine that holds all of it."""

    reader: Reader
    model: str
    decisions: dict[str, Decision]
    shadows: dict[str, list[ShadowDecision]]
    known: dict[str, bool]

    def fraud(self, identity: str) -> bool | None:
        return self.known.get(self.decisions[identity].transaction_id)

    def usd(self, identity: str) -> float:
        tx = self.decisions[identity].transaction
        return to_base_minor(tx.amount_minor, tx.currency) / 100


@pytest.fixture(scope="module")
def tried(clickhouse: ClickHouseEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    folder = tmp_path_factory.mktemp("models")
    model = publish_challenger(folder)
    live = publish_model(folder)
    _, rows = play(folder, traffic(5, 300), rules_record(SHIPPED, tried=DRAFT), model_record(live, tried=model))
    made, store, wire = LedgerRows(codec()), Store(clickhouse.settings), codec()
    for topic, extract in (
        (ledger.DECISIONS, made.decisions),
        (ledger.SHADOWS, made.shadows),
        (ledger.LABELS_APPLIED, made.labels),
    ):
        values = [Value(0, i, now_ms(), row.value) for i, row in enumerate(row for row in rows if row.topic == topic)]
        for token in ("once", "twice"):  # as a sink that dies before it remembers
            store.write(extract(values).tables, f"{topic}-{token}")
    store.close()
    labels = [wire.decode_label_applied(row.value) for row in rows if row.topic == ledger.LABELS_APPLIED]
    reader = Reader(ReaderAccount(clickhouse.url, *clickhouse.settings.reader))
    yield Tried(
        reader,
        model,
        {one.decision_id: one for one in decisions_in(rows)},
        {kind: [one for one in shadows_in(rows, kind) if one.tenant_id == TENANT] for kind in ("rules", "model")},
        {one.transaction_id: one.is_fraud for one in labels if one.tenant_id == TENANT},
    )
    reader.close()


@pytest.mark.parametrize("kind", ["rules", "model"])
def test_outcomes_labels_and_money_agree_with_a_recount(tried: Tried, kind: str) -> None:
    shadows = tried.shadows[kind]
    report = shadow_report(tried.reader, TENANT, kind)
    assert (report.asked.events, report.asked.hash) == (len(shadows), DRAFT.hash if kind == "rules" else tried.model)
    assert report.asked.agreed == sum(one.outcome == one.live_outcome for one in shadows) < len(shadows)
    assert report.asked.stricter + report.asked.looser + report.asked.agreed == len(shadows)
    pairs = Counter((one.live_outcome, one.outcome) for one in shadows)
    assert {(one.live, one.tried): one.events for one in report.outcomes} == pairs
    for one in report.outcomes:
        ids = [shadow.decision_id for shadow in shadows if (shadow.live_outcome, shadow.outcome) == (one.live, one.tried)]
        fraud = [identity for identity in ids if tried.fraud(identity) is True]
        genuine = [identity for identity in ids if tried.fraud(identity) is False]
        assert (one.fraud, one.genuine, one.unlabelled) == (len(fraud), len(genuine), len(ids) - len(fraud) - len(genuine))
        for usd, members in ((one.usd, ids), (one.fraud_usd, fraud), (one.genuine_usd, genuine)):
            assert usd == pytest.approx(sum(map(tried.usd, members)), abs=0.005)
    assert sum(one.fraud for one in report.outcomes) > 5
    assert len(report.changes) >= 2


@pytest.mark.parametrize("kind", ["rules", "model"])
def test_firings_of_each_rule_agree_with_a_recount(tried: Tried, kind: str) -> None:
    shadows = tried.shadows[kind]
    fired = Counter(hit.rule_id for one in shadows for hit in one.rules)
    live = Counter(hit.rule_id for one in shadows for hit in tried.decisions[one.decision_id].rules)
    fraud = Counter(hit.rule_id for one in shadows if tried.fraud(one.decision_id) is True for hit in one.rules)
    genuine = Counter(hit.rule_id for one in shadows if tried.fraud(one.decision_id) is False for hit in one.rules)
    report = shadow_report(tried.reader, TENANT, kind)
    assert {one.rule_id for one in report.rules} == {*fired, *live}
    for one in report.rules:
        name = one.rule_id
        assert (one.fired, one.fired_live, one.fraud, one.genuine) == (fired[name], live[name], fraud[name], genuine[name]), name


def test_quantiles_of_the_scores_agree_with_a_recount(tried: Tried) -> None:
    shadows = tried.shadows["model"]
    scores = shadow_report(tried.reader, TENANT, "model").scores
    assert scores.tried[1] == pytest.approx(median(one.score for one in shadows), abs=0.02)
    assert min(one.score for one in shadows) <= scores.tried[0] <= scores.tried[3] <= max(one.score for one in shadows)
    assert sum(one.score <= scores.tried[2] for one in shadows) == pytest.approx(0.9 * len(shadows), rel=0.02)
    assert scores.live[1] == pytest.approx(median(one.live_score for one in shadows), abs=0.02)
    assert scores.apart[3] > 0.0


def test_a_challenger_is_found_by_the_start_of_its_hash_and_by_no_other_tenant(tried: Tried) -> None:
    assert shadow_report(tried.reader, TENANT, "rules", DRAFT.hash[:10]).asked.hash == DRAFT.hash
    for tenant, kind, start in ((TENANT, "rules", "zz"), ("nobody", "rules", ""), (TENANT, "model", DRAFT.hash)):
        with pytest.raises(UnknownChallenger):
            shadow_report(tried.reader, tenant, kind, start)
    assert {one.hash for one in challengers(tried.reader, TENANT)} >= {DRAFT.hash, tried.model}
    assert challengers(tried.reader, "nobody") == []
