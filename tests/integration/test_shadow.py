"""Challengers in the running system, real Kafka, Flink, API and sink: what they say stands in a lane of its own, once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer

from api.client import Client
from api.identity import Role
from api.schemas import ScoreRequest
from fraud.catalogue import CATALOGUE
from fraud.events import Transaction
from fraud.rollout import is_chosen
from fraud.rules import RuleSet
from infra.api_access import Access
from infra.application import bring_up, codec_of, enricher_of, operator, rule_book
from infra.first_model import train_first_model
from infra.scoring_job import models_dir
from infra.stack import Stack
from serving import ledger
from serving.clock import now_ms
from serving.codec import Codec
from serving.records import Decision, ShadowDecision
from tests.command_line import on_the_command_line
from tests.private_stack import private_stack, put_small_model_into_production
from tests.scrape import scrape

CARDS, PAYMENTS = 40, 10
ASKED = "fraud_detection_shadow_decisions_total"
LIVE_WITHIN_S = 5.0  # as the promotion of rules promises
PATIENCE_S = 90.0
LARGE = {"id": "large", "name": "large", "when": "amount_usd > 900", "score": 1.0, "floor": "DENY", "reason_code": "LARGE", "message": "m"}
# on every payment: messages of 17,000 values take ten times as long as a challenger may, and those of 40,000 characters fit no record
SLOW, FAILING = ("{is_night}" * 49, 350), ("m" * 400, 100)
PACE = {"id": "pace", "name": "pace", "when": "card_count_tx_37m > 4", "score": 0.9, "reason_code": "PACE", "message": "m"}


@dataclass
class System:
    """The running stack, and what is tried on it."""

    stack: Stack
    codec: Codec
    challenger: str
    file: Path

    def cli(self, *arguments: str) -> dict[str, Any]:
        """The result of a command that is done well."""
        status, found = on_the_command_line(self.stack.layout.home, *arguments)
        assert status == 0, (arguments, found)
        return found

    def pay(self, tenant: str, begin_ms: int, *, pause_s: float = 0.0) -> None:
        """Payments of which no two cards share anything but the tenant, so that every log has one order, whatever the partitions do.

        With a pause behind one payment of each card, the next ones are of other batches.
        """
        producer = Producer({"bootstrap.servers": self.stack.addresses.bootstrap_servers, "linger.ms": 5})
        for number in range(CARDS * PAYMENTS):
            card = number % CARDS
            amount_minor = 100 + (number * 7_919) % 190_000
            tx = Transaction(f"t-{number}", tenant, f"card-{card}", f"m-{card}", amount_minor, "USD", begin_ms + 40 * number)
            producer.produce(ledger.TRANSACTIONS, self.codec.encode_transaction(tx), tx.card_id)
            if pause_s and card == CARDS - 1:
                producer.flush(30)
                time.sleep(pause_s)
        assert producer.flush(30) == 0

    def decisions(self, tenant: str, count: int) -> list[Decision]:
        """The committed decisions of a tenant, as soon as there are so many."""
        return self._committed(ledger.DECISIONS, self.codec.decode_decision, tenant, count)

    def shadows(self, tenant: str, count: int) -> list[ShadowDecision]:
        return self._committed(ledger.SHADOWS, self.codec.decode_shadow_decision, tenant, count)

    def _committed(self, topic: str, decode: Callable[[bytes | None], Any], tenant: str, count: int) -> list[Any]:
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            messages = ledger.read_to_end(self.stack.addresses.bootstrap_servers, (topic,))
            found = [one for one in (decode(message.value()) for message in messages) if one.tenant_id == tenant]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline_s, (topic, len(found), count)
            time.sleep(0.5)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("shadow")
    with private_stack(folder / "home", analytics=True) as stack:
        put_small_model_into_production(stack)
        models = models_dir(stack.layout)
        other = train_first_model(models, enricher_of(stack), say=lambda _text: None, start_ms=now_ms(), rows=6_000, seed=99).sha256
        bring_up(stack, lambda _text: None)
        file = folder / "draft.yaml"
        file.write_text(yaml.safe_dump({"rules": [LARGE, PACE]}))
        yield System(stack, codec_of(stack.plan), other, file)


def neutral(codec: Codec, decision: Decision) -> bytes:
    """The bytes of a decision without the name of its tenant."""
    tenant = decision.tenant_id
    return codec.encode_decision(
        replace(
            decision,
            tenant_id="-",
            decision_id="-",
            entities=[replace(one, key=one.key.removeprefix(tenant)) for one in decision.entities],
            transaction=replace(decision.transaction, tenant_id="-"),
        )
    )


@pytest.fixture
def nothing_is_tried(system: System) -> None:
    """The shipped rules and the model in production decide alone, whatever another test has tried."""
    system.cli("rules", "rollback", "--version", "0")
    system.cli("model", "withdraw")
    time.sleep(LIVE_WITHIN_S)


@pytest.mark.usefixtures("nothing_is_tried")
def test_decisions_are_the_same_beside_challengers_and_the_lane_has_each_of_them_once(system: System) -> None:
    begin_ms = now_ms() - 30_000  # the same events for two tenants, within the bound of lateness
    system.pay("without", begin_ms)
    without = system.decisions("without", CARDS * PAYMENTS)
    draft = system.cli("rules", "draft", str(system.file))["rule_set_hash"]
    before = system.cli("rules", "list")
    assert system.cli("rules", "shadow", draft[:12])["rule_set_hash"] == before["hash"]
    system.cli("model", "shadow", system.challenger[:12])
    statuses = {one["sha256"]: (one["status"], one["traffic_percentage"]) for one in system.cli("model", "list")["models"]}
    assert (statuses[system.challenger], min(statuses.values())) == (("testing", 0.0), ("production", 100.0))
    time.sleep(LIVE_WITHIN_S)
    system.pay("with", begin_ms)
    beside = system.decisions("with", CARDS * PAYMENTS)
    assert {one.transaction_id: neutral(system.codec, one) for one in beside} == {
        one.transaction_id: neutral(system.codec, one) for one in without
    }
    shadows = system.shadows("with", 2 * CARDS * PAYMENTS)
    assert Counter(Counter((one.kind, one.decision_id) for one in shadows).values()) == {1: 2 * CARDS * PAYMENTS}
    assert {(one.kind, one.hash) for one in shadows} == {("rules", draft), ("model", system.challenger)}
    assert system.shadows("without", 0) == []
    of_decision = {one.decision_id: one for one in beside}
    for shadow in shadows:
        live = of_decision[shadow.decision_id]
        assert (shadow.live_outcome, shadow.live_score, shadow.entities) == (live.outcome, live.score, live.entities)
        if shadow.kind == "rules":
            tx = live.transaction
            fired = {rule.rule_id for rule in shadow.rules}
            assert ("large" in fired) == (tx.amount_minor > 90_000)
            assert ("pace" in fired) == (int(tx.transaction_id.removeprefix("t-")) // CARDS >= 4)  # a window that nobody else asks for
    _the_report_agrees(system, "rules", draft, [one for one in shadows if one.kind == "rules"])
    _the_report_agrees(system, "model", system.challenger, [one for one in shadows if one.kind == "model"])


def _the_report_agrees(system: System, kind: str, digest: str, shadows: list[ShadowDecision]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    # nothing is there, or not everything, before the sink has read it
    asked = (kind, "shadow", "--report", "--tenant", "with")
    while (report := on_the_command_line(system.stack.layout.home, *asked)[1]).get("events") != len(shadows):
        assert time.monotonic() < deadline_s, report
        time.sleep(1.0)
    assert (report["kind"], report["hash"]) == (kind, digest)
    assert report["agreed"] == sum(one.outcome == one.live_outcome for one in shadows)
    pairs = Counter((one.live_outcome, one.outcome) for one in shadows)
    assert {(one["live"], one["tried"]): one["events"] for one in report["outcomes"]} == pairs
    fired = Counter(rule.rule_id for one in shadows for rule in one.rules)
    assert {one["rule_id"]: one["fired"] for one in report["rules"] if one["fired"]} == fired


def asked(card: int) -> ScoreRequest:
    values: dict[str, Any] = {"transaction_id": f"api-{card}", "card_id": f"api-card-{card}", "merchant_id": "m", "currency": "USD"}
    return ScoreRequest(**values, amount_minor=500, event_time_ms=now_ms())


@pytest.mark.usefixtures("nothing_is_tried")
def test_a_rollout_decides_for_its_cards_at_both_doors_and_goes_back(system: System) -> None:
    made = system.cli("rules", "promote", str(system.file), "--percent", "50")
    draft, live = made["identity"], system.cli("rules", "list")["hash"]
    assert made["traffic_percentage"] == 50.0
    time.sleep(LIVE_WITHIN_S)
    system.pay("rollout", now_ms() - 30_000)
    token = Access(system.stack.layout).issue_token("rollout", "ann", Role.SERVICE)
    with Client(system.stack.addresses.api_url, token=token) as shop:
        answers = [shop.score(asked(card)) for card in range(CARDS)]
    decisions = system.decisions("rollout", CARDS * (PAYMENTS + 1))
    for one in decisions:
        chosen = is_chosen(draft, "rollout", one.transaction.card_id, 50.0)
        assert one.rule_set_hash == (draft if chosen else live), one.transaction.card_id
    assert {one.rule_set_hash for one in answers} == {draft, live}
    assert Counter(one.door for one in decisions) == {"stream": CARDS * PAYMENTS, "api": CARDS}
    back = system.cli("rules", "rollback")
    assert (back["rule_set_hash"], back["challenger_hash"], back["traffic_percentage"]) == (live, draft, 0.0)
    time.sleep(LIVE_WITHIN_S)
    system.pay("after", now_ms() - 30_000)
    assert {one.rule_set_hash for one in system.decisions("after", CARDS * PAYMENTS)} == {live}


def on_every_payment(message: str, count: int) -> RuleSet:
    rule = {"name": "n", "when": "amount_minor > 0", "score": 0.1, "reason_code": "R", "message": message}
    return RuleSet.parse({"rules": [rule | {"id": f"r{i}"} for i in range(count)]}, CATALOGUE.index)


@pytest.mark.usefixtures("nothing_is_tried")
def test_a_challenger_that_fails_or_is_slow_is_counted_and_left_alone_and_no_decision_notices(system: System) -> None:
    book, ann = rule_book(system.stack.plan), operator("ann")
    begin_ms = now_ms() - 30_000
    system.pay("alone", begin_ms)
    alone = {one.transaction_id: neutral(system.codec, one) for one in system.decisions("alone", CARDS * PAYMENTS)}
    for result, made in (("failed", FAILING), ("slow", SLOW)):
        tried = on_every_payment(*made)
        book.shadow(ann, book.draft(ann, tried).rule_set_hash)
        time.sleep(LIVE_WITHIN_S)
        before = scrape(system.stack)
        for tenant, pause_s in ((f"beside-{result}", 0.3), (f"after-{result}", 0.0)):
            system.pay(tenant, begin_ms, pause_s=pause_s)
            decided = {one.transaction_id: neutral(system.codec, one) for one in system.decisions(tenant, CARDS * PAYMENTS)}
            assert decided == alone, tenant
        after = scrape(system.stack)
        counted = {
            name: after.total(ASKED, kind="rules", result=name) - before.total(ASKED, kind="rules", result=name)
            for name in ("same", "other", "slow", "failed", "left_out")
        }
        assert sum(counted.values()) == 2 * CARDS * PAYMENTS
        assert counted.pop(result) > 0, counted
        assert counted.pop("left_out") >= CARDS * PAYMENTS, "who comes after three such batches waits for nobody"
        said = system.shadows(f"beside-{result}", 0) + system.shadows(f"after-{result}", 0)
        assert bool(said) == (result == "slow"), "what is slow has answered"
