"""Rules, past decisions, erasure and the audit log over the running API, with its real servers and the typed client."""

from __future__ import annotations

import getpass
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from confluent_kafka import Producer

from api.bodies import RuleBody
from api.client import ApiProblem, Client
from api.identity import Role
from api.signing import secret_of
from fraud.errors import Unavailable
from fraud.events import Kind, decision_id, entity_key
from infra import releases
from infra.application import change_log, codec_of, rule_book
from serving import ledger
from serving.decision_index import find_in_ledger, index_key
from serving.online_store import EntityRow, OnlineStore
from serving.redis_link import RedisLink
from tests import command_line
from tests.api_stack import ApiStack, score_request
from tests.wire_samples import decision

NOWHERE = decision_id("acme", "never")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiStack]:
    running = ApiStack(tmp_path_factory.mktemp("home"))
    running.up()
    yield running
    running.down()


def client(stack: ApiStack, role: Role = Role.LEAD, tenant: str = "default", subject: str = "ann") -> Client:
    return Client(stack.url, token=stack.access.issue_token(tenant, subject, role))


@pytest.fixture
def lead(stack: ApiStack) -> Iterator[Client]:
    with client(stack) as made:
        yield made


def rule(score: float = 0.5, name: str = "large", **changed: Any) -> RuleBody:
    values = {
        "id": name,
        "name": name,
        "when": "amount_minor > 100",
        "score": score,
        "reason_code": "LARGE",
        "message": "{amount_minor} is large",
    }
    return RuleBody(**(values | changed))


def problem(call: Any, *arguments: Any, **named: Any) -> tuple[int, str]:
    with pytest.raises(ApiProblem) as raised:
        call(*arguments, **named)
    return raised.value.status, raised.value.code


def test_rules_go_from_draft_to_shadow_to_force_and_back(stack: ApiStack, lead: Client) -> None:
    before = lead.rules()
    draft = lead.draft_rules([rule(0.4, name="tried_first")])
    assert lead.rule_set(draft.rule_set_hash).rules == [rule(0.4, name="tried_first")]
    tried = lead.shadow_rules(draft.rule_set_hash, looked_at=before.version)
    beside = lead.rules()
    assert (beside.challenger_hash, beside.traffic_percentage) == (draft.rule_set_hash, 0.0)
    assert (beside.rule_set_hash, beside.rules) == (before.base_hash, lead.rule_set(before.base_hash).rules)
    promoted = lead.promote_rules(draft.rule_set_hash, looked_at=tried.version)
    assert lead.rules().rules == [rule(0.4, name="tried_first")]
    back = lead.roll_back_rules(looked_at=promoted.version)
    assert (back.version, back.rule_set_hash) == (before.version + 3, before.base_hash)
    seen = [(entry.action, entry.actor, entry.version) for entry in lead.audit(limit=500).entries][-4:]
    versions = [None, before.version + 1, before.version + 2, before.version + 3]
    assert seen == list(zip(("rules.draft", "rules.shadow", "rules.promote", "rules.rollback"), ["ann"] * 4, versions, strict=True))
    assert lead.audit().is_intact
    assert rule_book(stack.plan).in_force.version == back.version  # the command line sees the same


def test_a_set_that_is_tried_is_withdrawn(lead: Client) -> None:
    before = lead.rules()
    draft = lead.draft_rules([rule(0.44, name="tried_only")])
    tried = lead.shadow_rules(draft.rule_set_hash, looked_at=before.version)
    assert problem(lead.withdraw_rules, looked_at=before.version) == (412, "other_version")
    alone = lead.withdraw_rules(looked_at=tried.version)
    assert (alone.version, alone.rule_set_hash, alone.challenger_hash) == (tried.version + 1, before.base_hash, None)
    assert [(one.action, one.actor, one.version) for one in lead.audit(limit=500).entries][-1] == ("rules.withdraw", "ann", alone.version)
    with pytest.raises(ApiProblem, match="no set is tried") as raised:
        lead.withdraw_rules(looked_at=alone.version)
    assert (raised.value.status, raised.value.code) == (404, "not_found")


def test_a_promotion_reaches_the_next_decisions_within_five_seconds(stack: ApiStack, lead: Client) -> None:
    draft = lead.draft_rules([rule(0.9, floor="DENY", name="everything")])
    promoted = lead.promote_rules(draft.rule_set_hash, looked_at=lead.rules().version)
    began_s = time.monotonic()
    with client(stack, Role.SERVICE, "acme") as shop:
        numbers = iter(range(10_000))
        while (answer := shop.score(score_request(f"live-{next(numbers)}"))).rule_set_hash != promoted.rule_set_hash:
            assert time.monotonic() - began_s < 5.0
    assert (answer.decision, [one.rule_id for one in answer.reasons]) == ("DENY", ["everything"])


def test_a_change_names_the_version_it_replaces(lead: Client, stack: ApiStack) -> None:
    draft, version = lead.draft_rules([rule(0.41)]), lead.rules().version
    assert problem(lead.promote_rules, draft.rule_set_hash, looked_at=version + 1) == (412, "other_version")
    assert problem(lead.promote_rules, "f" * 64, looked_at=version) == (404, "not_found")
    bare = httpx2.post(f"{stack.url}/v1/rules/sets/{draft.rule_set_hash}/promote", headers=lead._credential)
    assert (bare.status_code, bare.json()["type"]) == (428, "urn:fraudguard:problem:if_match_needed")
    assert lead.rules().version == version


def test_of_several_who_promote_at_once_all_but_one_are_told_that_they_are_late(lead: Client) -> None:
    drafts = [lead.draft_rules([rule(round(0.1 + i / 100, 2))]).rule_set_hash for i in range(4)]
    version = lead.rules().version

    def promote(digest: str) -> int:
        try:
            return lead.promote_rules(digest, looked_at=version).version
        except ApiProblem as problem:
            return -problem.status

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(promote, drafts)) == [-412, -412, -412, version + 1]


def test_a_set_that_cannot_be_used_is_told_where_and_kept_nowhere(lead: Client) -> None:
    verdict = lead.validate_rules([rule(when="amount_minr > 1")])
    assert (verdict.valid, verdict.rule_id, verdict.position) == (False, "large", 1)
    assert verdict.problem is not None
    assert "amount_minor" in verdict.problem
    drafts = lead.drafts()
    assert problem(lead.draft_rules, [rule(when="amount_minr > 1")]) == (422, "invalid_rules")
    assert lead.drafts() == drafts


def test_only_the_operators_leads_change_rules(stack: ApiStack, lead: Client) -> None:
    draft, version = lead.draft_rules([rule(0.42)]).rule_set_hash, lead.rules().version
    for role, tenant in ((Role.LEAD, "acme"), (Role.ADMIN, "acme"), (Role.ANALYST, "default"), (Role.SERVICE, "default")):
        with client(stack, role, tenant) as other:
            assert problem(other.promote_rules, draft, looked_at=version) == (403, "denied")
            assert problem(other.draft_rules, [rule(0.43)]) == (403, "denied")
            assert problem(other.roll_back_rules, looked_at=version) == (403, "denied")
            assert problem(other.withdraw_rules, looked_at=version) == (403, "denied")
    assert lead.rules().version == version


def test_a_decision_is_found_by_its_id_by_its_tenant_alone_and_replays_equal(stack: ApiStack) -> None:
    with (
        client(stack, Role.SERVICE, "acme") as shop,
        client(stack, Role.ANALYST, "acme") as desk,
        client(stack, Role.ADMIN, "other") as stranger,
    ):
        answer = shop.score(score_request("shown-1", ip_address="192.0.2.7"))
        found = shop.decision(answer.decision_id)
        assert (found.score, found.outcome, found.door, found.tenant_id) == (answer.score, answer.decision, "api", "acme")
        assert "ip_address" not in found.transaction
        assert found.transaction["ip_hash"]
        replayed = desk.replay(answer.decision_id)
        assert (replayed.equal, replayed.differences) == (True, [])
        assert problem(stranger.decision, answer.decision_id) == (404, "not_found")
        assert problem(stranger.replay, answer.decision_id) == (404, "not_found")
        assert problem(desk.decision, NOWHERE) == (404, "not_found")
        assert problem(shop.replay, answer.decision_id) == (403, "denied")


def on_the_command_line(stack: ApiStack, *arguments: str) -> tuple[int, dict[str, Any]]:
    return command_line.on_the_command_line(stack.plan.layout.home, *arguments)


def test_the_command_line_shows_and_replays_the_same_decision(stack: ApiStack) -> None:
    with client(stack, Role.SERVICE, "acme") as shop:
        answer = shop.score(score_request("cli-1"))
    status, shown = on_the_command_line(stack, "decision", "show", answer.decision_id, "--tenant", "acme")
    assert (status, shown["score"], shown["transaction"]["transaction_id"]) == (0, answer.score, "cli-1")
    status, replayed = on_the_command_line(stack, "decision", "replay", answer.decision_id, "--tenant", "acme")
    assert (status, replayed["equal"], replayed["differences"]) == (0, True, [])
    assert on_the_command_line(stack, "decision", "show", answer.decision_id) == (1, {})  # of the tenant default there is none


def test_the_command_line_drafts_tries_and_rolls_back(stack: ApiStack, lead: Client, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"rules": [rule(0.33, name="by_hand").model_dump()]}))
    before = lead.rules()
    status, draft = on_the_command_line(stack, "rules", "draft", str(file))
    assert status == 0
    assert on_the_command_line(stack, "rules", "shadow", draft["rule_set_hash"][:12])[1]["version"] == before.version + 1
    assert (lead.rules().challenger_hash, lead.rules().rule_set_hash) == (draft["rule_set_hash"], before.base_hash)
    assert on_the_command_line(stack, "rules", "withdraw")[1]["challenger_hash"] is None
    assert on_the_command_line(stack, "rules", "withdraw") == (1, {})
    assert on_the_command_line(stack, "rules", "promote", str(file))[0] == 0
    assert on_the_command_line(stack, "rules", "rollback")[1]["rule_set_hash"] == before.base_hash
    status, history = on_the_command_line(stack, "rules", "history")
    assert (status, history["faults"]) == (0, [])
    assert [entry["action"] for entry in history["entries"]][-5:] == [
        "rules.draft",
        "rules.shadow",
        "rules.withdraw",
        "rules.promote",
        "rules.rollback",
    ]


def test_changes_of_models_are_in_the_same_log(stack: ApiStack, lead: Client) -> None:
    plan, first, second = stack.plan, stack.train(), stack.train_another(seed=9)
    with pytest.raises(Unavailable, match="withdrawn, not rolled back"):
        releases.roll_back_model(plan, author="ann")  # and what is not done is not logged
    releases.try_model(plan, second, 0.0, author="ann")
    releases.try_model(plan, second, 20.0, author="ann")
    releases.roll_back_model(plan, author="ann")
    releases.withdraw_model(plan, author="ann")
    assert on_the_command_line(stack, "model", "promote", second)[0] == 0
    releases.roll_back_model(plan, author="ann")
    logged = lead.audit(limit=500).entries
    assert [(one.action, one.target, one.before, one.after) for one in logged][-6:] == [
        ("model.shadow", second, first, first),
        ("model.rollout", second, first, first),
        ("model.rollback", second, first, first),
        ("model.withdraw", first, first, first),
        ("model.promote", second, first, second),
        ("model.rollback", first, second, first),
    ]
    assert [one.actor for one in logged[-6:]] == ["ann"] * 4 + [getpass.getuser(), "ann"]
    shares = [json.loads(entry.body or "{}").get("traffic_percentage") for entry in change_log(stack.plan).entries[-6:]]
    assert shares == [0.0, 20.0, 0.0, None, None, None]
    assert lead.audit().is_intact


def test_a_decision_of_rules_long_gone_replays_equal(stack: ApiStack, lead: Client) -> None:
    with client(stack, Role.SERVICE, "acme") as shop, client(stack, Role.ANALYST, "acme") as desk:
        old = shop.score(score_request("old-1"))
        for score in (0.21, 0.22):
            lead.promote_rules(lead.draft_rules([rule(score)]).rule_set_hash, looked_at=lead.rules().version)
        numbers = iter(range(10_000))
        while shop.score(score_request(f"new-{next(numbers)}")).rule_set_hash == old.rule_set_hash:
            time.sleep(0.05)
        replayed = desk.replay(old.decision_id)
    assert (replayed.equal, replayed.rule_set_hash) == (True, old.rule_set_hash)


def test_a_record_that_was_altered_does_not_replay(stack: ApiStack) -> None:
    """The negative control: what differs is named."""
    codec, link = codec_of(stack.plan), RedisLink(stack.plan.addresses.redis_url, 1.0)
    with client(stack, Role.SERVICE, "acme") as shop, client(stack, Role.ANALYST, "acme") as desk:
        answer = shop.score(score_request("altered-1"))
        key = index_key("acme", answer.decision_id)
        record = codec.decode_decision(link.call([("GET", key)])[0])
        record.score += 1e-15
        record.transaction.amount_minor += 1
        link.call([("SET", key, codec.encode_decision(record))])
        differences = {one.field for one in desk.replay(answer.decision_id).differences}
        assert {"score", "features.amount_minor"} <= differences or {"score"} < differences
        record.catalogue_version = "f" * 16
        link.call([("SET", key, codec.encode_decision(record))])
        assert problem(desk.replay, answer.decision_id) == (409, "not_replayable")
        record = codec.decode_decision(link.call([("GET", key)])[0])


def test_a_decision_of_the_stream_is_found_in_the_ledger(stack: ApiStack) -> None:
    codec, bootstrap = codec_of(stack.plan), stack.plan.addresses.bootstrap_servers
    wanted = [decision(tenant_id="acme", transaction_id=f"s{i}", decision_id=decision_id("acme", f"s{i}")) for i in range(25_000)]
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 1_000_000})
    for one in wanted:
        producer.produce(ledger.DECISIONS, codec.encode_decision(one), one.transaction_id.encode())
    assert producer.flush(60) == 0
    with client(stack, Role.ANALYST, "acme") as desk, client(stack, Role.ANALYST, "other") as stranger:
        for one in (wanted[0], wanted[12_345], wanted[-1]):
            assert desk.decision(one.decision_id).transaction_id == one.transaction_id
            found = find_in_ledger(bootstrap, codec, one.decision_id)
            assert found is not None
            assert found.transaction_id == one.transaction_id
        assert problem(stranger.decision, wanted[-1].decision_id) == (404, "not_found")


def test_a_subject_leaves_what_is_kept_and_the_log_says_so_without_naming_it(stack: ApiStack) -> None:
    store = OnlineStore(stack.plan.addresses.redis_url, timeout_s=1.0)
    rows = [EntityRow(Kind.CARD, entity_key(tenant, "c-gone"), b"state", 1, 1) for tenant in ("acme", "other")]
    store.write(rows, epoch=1)
    with (
        client(stack, Role.SERVICE, "acme") as shop,
        client(stack, Role.ADMIN, "acme") as officer,
        client(stack, Role.ANALYST, "acme") as desk,
    ):
        gone, stays = shop.score(score_request("erase-1", card_id="c-gone")), shop.score(score_request("erase-2", card_id="c-gone-not"))
        assert problem(desk.erase, "card", "c-gone") == (403, "denied")
        done = officer.erase("card", "c-gone")
        assert (done.online_rows, done.decisions) == (1, 1)
        assert problem(shop.decision, gone.decision_id) == (404, "not_found")
        assert shop.decision(stays.decision_id).decision_id == stays.decision_id
        assert store.read([(row.kind, row.key) for row in rows])[0] is None
        assert store.read([(row.kind, row.key) for row in rows])[1] is not None  # another tenant's card of the same name
        again = officer.erase("card", "c-gone")
        assert (again.online_rows, again.decisions) == (0, 0)
        entries = officer.audit(limit=500).entries
    assert [entry.action for entry in entries] == ["subject.erase", "subject.erase"]
    assert entries[0].target == entries[1].target
    assert "c-gone" not in str(entries)
    store.close()


def test_the_audit_log_is_read_in_pages_by_the_tenants_officers(stack: ApiStack) -> None:
    with client(stack, Role.ADMIN, "paged") as officer, client(stack, Role.ANALYST, "paged") as desk:
        made = [officer.erase("user", f"u{i}").audit_seq for i in range(5)]
        first = officer.audit(limit=2)
        assert [entry.seq for entry in first.entries] == made[:2]
        assert first.next_after == made[1]
        rest = officer.audit(after=made[1])
        assert [entry.seq for entry in rest.entries] == made[2:]
        assert rest.next_after is None
        assert problem(desk.audit) == (403, "denied")
    assert change_log(stack.plan).faults == []


def test_signed_requests_are_those_of_the_client(stack: ApiStack) -> None:
    key, text = stack.access.key_file.create("acme", "signer", Role.SERVICE, must_sign=True)
    time.sleep(1.1)  # the file is looked at once a second
    secret = secret_of(stack.access.signing_secret, key.key_id)
    with Client(stack.url, api_key=text, signing_secret=secret) as signed, Client(stack.url, api_key=text) as unsigned:
        assert signed.score(score_request("signed-1")).transaction_id == "signed-1"
        assert problem(unsigned.score, score_request("signed-2")) == (401, "unauthenticated")


def test_a_tenant_above_its_limit_waits_and_another_does_not(stack: ApiStack) -> None:
    with client(stack, Role.ANALYST, "noisy") as noisy, client(stack, Role.ANALYST, "quiet") as quiet:
        statuses = []

        def hammer() -> None:
            for _ in range(300):
                try:
                    noisy.validate_rules([])
                    statuses.append(200)
                except ApiProblem as problem:
                    statuses.append(problem.status)
                    assert problem.retry_after_s is not None

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            quiet.validate_rules([])
            time.sleep(0.2)
        assert statuses.count(200) + statuses.count(429) == 1_200
        assert 1_000 <= statuses.count(200) <= 1_000 + 1_000 // 12 * 2  # what a slow machine's minute gives back


def test_what_leads_do_without_kafka_is_refused_and_scoring_goes_on(stack: ApiStack, lead: Client) -> None:
    stack.stop("kafka")
    try:
        assert problem(lead.draft_rules, [rule(0.77)])[0] == 503
        with client(stack, Role.SERVICE, "acme") as shop:
            assert shop.score(score_request("no-kafka-1")).decision in ("ALLOW", "CHALLENGE", "DENY")
    finally:
        stack.start("kafka")
    deadline_s = time.monotonic() + 20
    while True:
        try:
            assert lead.draft_rules([rule(0.77)]).author == "ann"
            break
        except ApiProblem as problem_then:  # the clients of the broker look for it every few seconds
            assert problem_then.status == 503
            assert time.monotonic() < deadline_s
