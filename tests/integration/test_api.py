"""The API as a process of its own, on real Redis, Kafka and registry: one answer a transaction, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer

from api.scoring import PATHS
from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from fraud.rules import RuleSet
from serving.metrics import CATALOGUE as METRICS
from serving.metrics import Emitter, series_of
from serving.records import ModelVersion, RuleSetVersion
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from tests.api_stack import Answer, ApiStack, question

LIVE_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiStack]:
    own = ApiStack(tmp_path_factory.mktemp("api"))
    try:
        own.train()
        own.up()
        yield own
    finally:
        own.down()


def send(stack: ApiStack, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": stack.plan.addresses.bootstrap_servers})
    producer.produce(topic, value, b"default")
    assert producer.flush(15) == 0


def test_the_first_answer_names_model_rules_and_what_it_knew(stack: ApiStack) -> None:
    body = question()
    answer = stack.ask("/v1/score", body)
    assert answer.status == 200
    assert answer.json["decision_id"] == decision_id("acme", body["transaction_id"])
    assert answer.json["degraded"] == []
    assert answer.json["model_sha256"] is not None
    assert answer.json["rule_set_hash"] == load_rules(DEFAULT_RULES_PATH, CATALOGUE.index).hash
    assert [one["seq"] for one in answer.json["freshness"]["entities"]] == [0] * 5


def test_the_three_names_of_the_route_are_one_question(stack: ApiStack) -> None:
    body = question()
    assert len({stack.ask(path, body).body for path in PATHS}) == 1


def test_fifty_at_once_get_the_same_bytes_and_the_stream_gets_one_event(stack: ApiStack) -> None:
    body = question()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: stack.ask("/v1/score", body), range(50)))
    assert {one.status for one in answers} <= {200, 409}
    assert len({one.body for one in answers if one.status == 200}) == 1
    assert stack.ask("/v1/score", body).body == next(one.body for one in answers if one.status == 200)
    stack.wait_until(lambda: stack.sample("fraud_api_buffered_events") == 0, "events are not sent")
    sent = [one for one in stack.published() if one.transaction.transaction_id == body["transaction_id"]]
    assert len(sent) == 1


def start_again(stack: ApiStack) -> None:
    """Until it has read what is in force: before, it decides with what it was installed with, and says that it is not ready."""
    stack.start("api")
    stack.wait_until(lambda: stack.ask("/health/ready").json["status"] == "up", "it does not become ready")


def test_the_first_answer_outlives_the_process(stack: ApiStack) -> None:
    body = question()
    first = stack.ask("/v1/score", body, headers={"Idempotency-Key": "outlives"})
    stack.stop("api")
    start_again(stack)
    assert stack.ask("/v1/score", body, headers={"Idempotency-Key": "outlives"}).body == first.body
    assert stack.ask("/v1/score", {**body, "amount_minor": 1}).status == 422
    assert stack.ask("/v1/score", question(), headers={"Idempotency-Key": "outlives"}).status == 422


def test_spacing_and_order_of_fields_are_no_other_question(stack: ApiStack) -> None:
    body = question()
    first = stack.ask("/v1/score", body)
    assert stack.ask("/v1/score", dict(reversed(body.items()))).body == first.body


def test_the_stream_gets_transaction_decision_and_trace(stack: ApiStack) -> None:
    body, trace_id = question(), "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = stack.ask("/v1/score", body, headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    stack.wait_until(lambda: stack.sample("fraud_api_buffered_events") == 0, "events are not sent")
    (sent,) = [one for one in stack.published() if one.transaction.transaction_id == body["transaction_id"]]
    decided = stack.codec().decode_decision(sent.transaction.decided)
    assert sent.headers["traceparent"].decode().split("-")[1] == decided.trace_id == trace_id
    assert (decided.score, decided.decision_id) == (answer.json["score"], answer.json["decision_id"])
    assert body["ip_address"] not in repr(sent)
    assert decided.door == "api"


def test_a_batch_answers_each_as_if_it_had_come_alone(stack: ApiStack) -> None:
    known = question()
    first = stack.ask("/v1/score", known)
    answers = stack.ask("/v1/score/batch", {"transactions": [known, question(), question(currency="XXX")]}).json["answers"]
    assert answers[0] == first.json
    assert answers[1]["decision"] in {"ALLOW", "CHALLENGE", "DENY"}
    assert (answers[2]["status"], answers[2]["type"]) == (422, "urn:fraudguard:problem:unknown_currency")


@pytest.mark.parametrize(
    "changed", [{"unknown_field": 1}, {"amount_minor": "12"}, {"amount_minor": -1}, {"card_id": ""}, {"lat": 91.0}, {"tenant_id": "other"}]
)
def test_what_is_no_question_is_refused_before_anything_is_kept(stack: ApiStack, changed: dict[str, object]) -> None:
    body = question()
    refused = stack.ask("/v1/score", {**body, **changed})
    assert (refused.status, refused.headers["content-type"]) == (422, "application/problem+json")
    assert stack.ask("/v1/score", body).status == 200


def test_another_tenants_name_in_the_header_is_refused(stack: ApiStack) -> None:
    assert stack.ask("/v1/score", question(), headers={"tenant-id": "other"}).status == 403
    assert stack.ask("/v1/score", question(), headers={"tenant-id": "acme"}).status == 200


def promote(stack: ApiStack, rules: RuleSet) -> None:
    send(stack, "rules", stack.codec().encode_rule(RuleSetVersion(1, rules.hash, rules.to_json(), "test", 1)))
    took_s = stack.wait_until(lambda: stack.ask("/v1/score", question()).json["rule_set_hash"] == rules.hash, "the rules are not live")
    assert took_s < LIVE_WITHIN_S


def test_a_promoted_rule_set_and_model_are_live_within_seconds(stack: ApiStack) -> None:
    before = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    promote(stack, RuleSet([], CATALOGUE.index))
    promote(stack, before)  # the tests come in any order, and the others know these
    sha256 = stack.train_another()
    send(stack, "models", stack.codec().encode_model(ModelVersion("fraud", "2", sha256, "", 1)))
    took_s = stack.wait_until(lambda: stack.ask("/v1/score", question()).json["model_sha256"] == sha256, "the model is not live")
    assert took_s < LIVE_WITHIN_S


def test_a_release_that_cannot_be_used_is_refused_and_counted_and_the_one_before_stays(stack: ApiStack) -> None:
    before = stack.ask("/v1/score", question()).json
    refused = {kind: stack.sample("fraud_api_releases_refused_total", kind=kind) for kind in ("rules", "models")}
    send(stack, "rules", b"garbage")
    send(stack, "models", stack.codec().encode_model(ModelVersion("fraud", "3", "0" * 64, "", 1)))
    for kind, count in refused.items():
        stack.wait_until(lambda kind=kind, count=count: stack.sample("fraud_api_releases_refused_total", kind=kind) > count, kind)
    after = stack.ask("/v1/score", question()).json
    assert (after["rule_set_hash"], after["model_sha256"]) == (before["rule_set_hash"], before["model_sha256"])


def test_what_was_promoted_is_in_force_again_after_a_restart(stack: ApiStack) -> None:
    before = stack.ask("/v1/score", question()).json
    stack.stop("api")
    start_again(stack)
    after = stack.ask("/v1/score", question()).json
    assert (after["rule_set_hash"], after["model_sha256"]) == (before["rule_set_hash"], before["model_sha256"])


def test_an_entity_on_a_block_list_is_denied_within_seconds(stack: ApiStack) -> None:
    stack.redis().sadd("blacklist:acme:card", "stolen")
    took_s = stack.wait_until(lambda: stack.ask("/v1/score", question(card_id="stolen")).json["decision"] == "DENY", "it is not denied")
    assert took_s < LIVE_WITHIN_S


def test_what_is_counted_is_what_the_catalogue_says(stack: ApiStack) -> None:
    stack.ask("/v1/score", question())
    exposed = {sample.name: set(sample.labels) for sample in stack.samples()}
    wanted = {name: set(labels) for entry in METRICS if entry.emitter is Emitter.API for name, labels in series_of(entry).items()}
    assert {name: exposed.get(name) for name in wanted} == wanted
    assert stack.sample("http_requests_total", method="POST", route="/v1/score", status="200") > 0


def test_a_stopped_process_sends_what_it_has_before_it_goes(stack: ApiStack) -> None:
    bodies = [question() for _ in range(20)]
    answers: list[Answer] = [stack.ask("/v1/score", one) for one in bodies]
    assert {one.status for one in answers} == {200}
    stack.stop_politely("api")
    start_again(stack)
    sent = {one.transaction.transaction_id for one in stack.published()}
    assert {one["transaction_id"] for one in bodies} <= sent
