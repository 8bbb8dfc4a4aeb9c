"""The audit log and the rule book over a real broker: one order, nobody's work lost, tampering seen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from fraud.catalogue import CATALOGUE
from fraud.errors import InvalidEvent, Unavailable
from fraud.rules import RuleSet
from infra.topics import Topic, create_topics
from serving import ledger
from serving.change_log import Actor, ChangeLog, hash_of
from serving.records import Change
from serving.rule_book import PROMOTED, ROLLED_BACK, ROLLED_OUT, SHADOWED, WITHDRAWN, NothingToUndo, RuleBook, RulesConflict, UnknownRules
from serving.rules_file import DEFAULT_RULES_PATH, load_rules
from tests.kafka_server import KafkaServer
from tests.wire_samples import NOW_MS, codec

ANN, BOB = Actor("default", "ann", "lead", "4bf92f3577b34da6a3ce929d0e0e4736"), Actor("default", "bob", "admin")
clock = count(NOW_MS).__next__


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    running = KafkaServer(tmp_path_factory.mktemp("kafka"))
    running.start()
    yield running
    running.kill()


@pytest.fixture
def kafka(server: KafkaServer) -> str:
    """The broker with an empty audit log and no rules."""
    topics = [Topic(ledger.AUDIT, permanent=True), Topic(ledger.RULES, compacted=True)]
    client = AdminClient({"bootstrap.servers": server.bootstrap})  # held: its futures die with it
    for future in client.delete_topics([topic.name for topic in topics]).values():
        future.result(timeout=10)
    deadline_s = time.monotonic() + 20
    while not _is_there(server, topics):  # a deleted topic lingers in the metadata, and a new one is not there at once
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return server.bootstrap


def _is_there(server: KafkaServer, topics: list[Topic]) -> bool:
    try:
        create_topics(server.bootstrap, partitions=2, retention_ms=604_800_000, topics=topics)
        ChangeLog(server.bootstrap, codec(), clock).refresh()
    except Unavailable:
        return False
    return True


def book(kafka: str) -> RuleBook:
    """A rule book as another process has it."""
    return RuleBook(ChangeLog(kafka, codec(), clock), codec(), kafka)


def rules(**scores: float) -> RuleSet:
    """One rule for each name."""
    items = [
        {"id": name, "name": name, "when": "amount_minor > 100", "score": score, "reason_code": "R", "message": "m"}
        for name, score in scores.items()
    ]
    return RuleSet.parse({"rules": items}, CATALOGUE.index)


def on_the_topic(kafka: str) -> list[tuple[int, str]]:
    records = [codec().decode_rule(message.value()) for message in ledger.read_to_end(kafka, (ledger.RULES,))]
    return [(record.version, record.hash) for record in records]


def test_what_is_promoted_is_published_and_every_process_knows_it(kafka: str) -> None:
    one, other = book(kafka), book(kafka)
    draft = one.draft(ANN, rules(a=0.5))
    release = one.promote(ANN, draft.rule_set_hash, expected=0)
    other.refresh()
    assert (release.version, release.rule_set_hash, release.author) == (1, draft.rule_set_hash, "ann")
    assert other.in_force == release
    assert other.rules(draft.rule_set_hash).to_json() == rules(a=0.5).to_json()
    assert on_the_topic(kafka) == [(1, draft.rule_set_hash)]


def tried_on_the_topic(kafka: str) -> tuple[str, str | None, str | None, float]:
    record = [codec().decode_rule(message.value()) for message in ledger.read_to_end(kafka, (ledger.RULES,))][-1]
    return record.body, record.challenger_hash, record.challenger_body, record.traffic_percentage


def test_a_draft_in_shadow_stands_beside_what_is_in_force_and_changes_nothing_of_it(kafka: str) -> None:
    desk, live, draft = book(kafka), rules(a=0.5, b=0.2), rules(a=0.7, c=0.1, b=0.2)
    desk.promote(ANN, desk.draft(ANN, live).rule_set_hash)
    tried = desk.shadow(BOB, desk.draft(BOB, draft).rule_set_hash, expected=1)
    assert (tried.rule_set_hash, tried.base_hash) == (live.hash, live.hash)
    assert (tried.challenger_hash, tried.traffic_percentage) == (draft.hash, 0.0)
    assert tried_on_the_topic(kafka) == (live.to_json(), draft.hash, draft.to_json(), 0.0)
    again = desk.shadow(BOB, desk.draft(BOB, rules(d=0.3)).rule_set_hash)
    assert (again.rule_set_hash, again.challenger_hash) == (live.hash, rules(d=0.3).hash)  # one draft at a time
    assert on_the_topic(kafka)[-1] == (3, live.hash)


def test_a_rollout_grows_and_goes_back_to_a_shadow(kafka: str) -> None:
    desk, live, draft = book(kafka), rules(a=0.5), rules(a=0.7)
    desk.promote(ANN, desk.draft(ANN, live).rule_set_hash)
    desk.draft(BOB, draft)
    for percent in (5.0, 12.5):
        made = desk.roll_out(BOB, draft.hash, percent)
        assert (made.action, made.rule_set_hash) == (ROLLED_OUT, live.hash)
        assert (made.challenger_hash, made.traffic_percentage) == (draft.hash, percent)
        assert tried_on_the_topic(kafka) == (live.to_json(), draft.hash, draft.to_json(), percent)
    back = desk.roll_back(ANN)
    assert (back.action, back.rule_set_hash, back.challenger_hash, back.traffic_percentage) == (ROLLED_BACK, live.hash, draft.hash, 0.0)
    whole = desk.promote(ANN, draft.hash)
    assert (whole.rule_set_hash, whole.challenger_hash, whole.traffic_percentage) == (draft.hash, None, 0.0)
    assert tried_on_the_topic(kafka) == (draft.to_json(), None, None, 0.0)
    assert desk.roll_back(ANN).rule_set_hash == live.hash
    other = book(kafka)
    other.refresh()
    assert other.releases == desk.releases
    for percent in (100.0, -1.0, float("nan")):
        with pytest.raises(InvalidEvent):
            desk.roll_out(BOB, draft.hash, percent)


def test_a_log_in_which_shadows_stood_in_the_set_in_force_is_still_read(kafka: str) -> None:
    """As it was once written; a decision of that time carries the hash of both together."""
    desk, live, both = book(kafka), rules(a=0.5), rules(a=0.5, b=0.2)
    desk.promote(ANN, desk.draft(ANN, live).rule_set_hash)
    draft = desk.draft(ANN, rules(b=0.2)).rule_set_hash
    old = Change(0, "", "", 0, "", "", "", SHADOWED, draft, 2, live.hash, both.hash, both.to_json())
    ChangeLog(kafka, codec(), clock).append(ANN, lambda: old)
    desk.refresh()
    assert (desk.in_force.rule_set_hash, desk.in_force.base_hash, desk.in_force.challenger_hash) == (both.hash, live.hash, None)
    assert desk.rules(both.hash).to_json() == both.to_json()
    assert desk.withdraw(ANN).rule_set_hash == live.hash
    assert desk.shadow(ANN, draft).rule_set_hash == live.hash  # from here on decisions carry the promoted set alone


def test_a_roll_back_puts_the_earlier_set_under_a_new_number(kafka: str) -> None:
    desk = book(kafka)
    first = desk.promote(ANN, desk.draft(ANN, rules(a=0.5)).rule_set_hash)
    second = desk.promote(ANN, desk.draft(ANN, rules(a=0.6)).rule_set_hash)
    back = desk.roll_back(BOB, expected=second.version)
    shipped = desk.roll_back(BOB, version=0)
    assert (back.version, back.rule_set_hash) == (3, first.rule_set_hash)
    assert (shipped.version, shipped.rule_set_hash) == (4, load_rules(DEFAULT_RULES_PATH, CATALOGUE.index).hash)
    assert [release.action for release in desk.releases[1:]] == [PROMOTED, PROMOTED, ROLLED_BACK, ROLLED_BACK]
    assert on_the_topic(kafka)[-1] == (4, shipped.rule_set_hash)


def test_a_shadow_is_no_set_to_roll_back_to(kafka: str) -> None:
    desk = book(kafka)
    first = desk.promote(ANN, desk.draft(ANN, rules(a=0.5)).rule_set_hash)
    desk.promote(ANN, desk.draft(ANN, rules(b=0.5)).rule_set_hash)
    tried = desk.shadow(ANN, desk.draft(ANN, rules(c=0.5)).rule_set_hash)
    back = desk.roll_back(BOB)
    assert (tried.action, back.rule_set_hash, back.challenger_hash) == (SHADOWED, first.rule_set_hash, None)


@pytest.mark.parametrize("percent", [0.0, 12.5])
def test_what_is_withdrawn_leaves_the_set_in_force_alone(kafka: str, percent: float) -> None:
    desk, live, draft = book(kafka), rules(a=0.5), rules(a=0.7)
    desk.promote(ANN, desk.draft(ANN, live).rule_set_hash)
    desk.draft(BOB, draft)
    tried = desk.roll_out(BOB, draft.hash, percent) if percent else desk.shadow(BOB, draft.hash)
    with pytest.raises(RulesConflict):
        desk.withdraw(ANN, expected=tried.version - 1)
    alone = desk.withdraw(ANN, expected=tried.version)
    assert (alone.action, alone.version, alone.author) == (WITHDRAWN, tried.version + 1, "ann")
    assert (alone.rule_set_hash, alone.base_hash, alone.challenger_hash, alone.traffic_percentage) == (live.hash, live.hash, None, 0.0)
    assert tried_on_the_topic(kafka) == (live.to_json(), None, None, 0.0)
    with pytest.raises(NothingToUndo, match="no set is tried"):
        desk.withdraw(ANN)
    other = book(kafka)
    other.refresh()
    assert other.releases == desk.releases


def test_a_shadow_over_the_shipped_set_is_not_rolled_back_but_withdrawn(kafka: str) -> None:
    desk = book(kafka)
    tried = desk.shadow(ANN, desk.draft(ANN, rules(a=0.5)).rule_set_hash)
    with pytest.raises(NothingToUndo, match="withdrawn"):
        desk.roll_back(ANN)
    assert desk.in_force == tried
    assert desk.withdraw(ANN).challenger_hash is None


def test_nothing_is_put_in_force_that_nobody_has_looked_at(kafka: str) -> None:
    one, other = book(kafka), book(kafka)
    first, second = one.draft(ANN, rules(a=0.5)), one.draft(ANN, rules(b=0.5))
    one.promote(ANN, first.rule_set_hash, expected=0)
    with pytest.raises(RulesConflict) as conflict:
        other.promote(BOB, second.rule_set_hash, expected=0)
    assert conflict.value.version == 1
    with pytest.raises(UnknownRules):
        other.promote(BOB, "f" * 64)
    assert on_the_topic(kafka) == [(1, first.rule_set_hash)]


def test_of_many_who_replace_the_same_version_at_once_one_succeeds(kafka: str) -> None:
    desks = [book(kafka) for _ in range(6)]
    drafts = [desk.draft(ANN, rules(**{f"r{i}": 0.5})).rule_set_hash for i, desk in enumerate(desks)]

    def promote(i: int) -> str:
        try:
            return desks[i].promote(ANN, drafts[i], expected=0).rule_set_hash
        except RulesConflict:
            return "lost"

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(promote, range(6)))
    winners = [result for result in results if result != "lost"]
    assert len(winners) == 1
    assert on_the_topic(kafka) == [(1, winners[0])]


def test_many_who_draft_at_once_lose_nothing_and_leave_one_chain(kafka: str) -> None:
    desks = [book(kafka) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: desks[i % 4].draft(ANN, rules(**{f"r{i}": 0.5})).rule_set_hash, range(16)))
    log = ChangeLog(kafka, codec(), clock)
    log.refresh()
    assert {entry.target for entry in log.entries} == set(made)
    assert log.faults == []
    assert [entry.seq for entry in log.entries] == list(range(1, 17))
    for before, after in zip(log.entries, log.entries[1:], strict=False):
        assert after.previous_hash == before.hash


def test_a_process_that_died_before_it_published_is_made_up_for(kafka: str) -> None:
    desk = book(kafka)
    draft = desk.draft(ANN, rules(a=0.5))
    body = rules(a=0.5).to_json()
    log = ChangeLog(kafka, codec(), clock)
    log.append(ANN, lambda: Change(0, "", "", 0, "", "", "", PROMOTED, draft.rule_set_hash, 1, None, draft.rule_set_hash, body))
    assert on_the_topic(kafka) == []
    book(kafka).settle()
    assert on_the_topic(kafka) == [(1, draft.rule_set_hash)]
    book(kafka).settle()
    assert len(on_the_topic(kafka)) == 1


def test_the_shipped_set_is_kept_once_and_found_by_its_hash(kafka: str) -> None:
    shipped = load_rules(DEFAULT_RULES_PATH, CATALOGUE.index)
    for _ in range(2):
        book(kafka).keep_shipped(BOB)
    log = ChangeLog(kafka, codec(), clock)
    log.refresh()
    assert [(entry.action, entry.target) for entry in log.entries] == [("rules.shipped", shipped.hash)]


def replayed(kafka: str, change: Any) -> list[str]:
    """The faults that a reader finds when the records of the log come to it with ``change`` applied."""
    source = ChangeLog(kafka, codec(), clock)
    source.refresh()
    reader = ChangeLog(kafka, codec(), clock)
    for offset, record in enumerate(change(list(source.entries))):
        reader._take(_Message(offset, codec().encode_change(record)))
    return reader.faults


class _Message:
    def __init__(self, offset: int, value: bytes) -> None:
        self._offset, self._value = offset, value

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return self._value


@pytest.fixture
def written(kafka: str) -> str:
    desk = book(kafka)
    for score in (0.1, 0.2, 0.3, 0.4):
        desk.draft(ANN, rules(a=score))
    return kafka


@pytest.mark.parametrize(
    "tamper",
    [
        lambda log: [log[0], replace(log[1], actor="eve"), *log[2:]],
        lambda log: [log[0], *log[2:]],
        lambda log: log[1:],
        lambda log: [log[0], (forged := replace(log[1], actor="eve")) and replace(forged, hash=hash_of(forged)), *log[2:]],
        lambda log: [log[1], log[0], *log[2:]],
    ],
    ids=["altered", "removed", "beheaded", "altered with a fitting hash", "swapped"],
)
def test_tampering_shows(written: str, tamper: Any) -> None:
    assert replayed(written, lambda log: log) == []
    assert replayed(written, tamper) != []


def test_a_log_that_was_tampered_with_takes_no_more_changes(kafka: str) -> None:
    desk = book(kafka)
    desk.draft(ANN, rules(a=0.1))
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(ledger.AUDIT, b"rubbish")
    producer.flush(5)
    with pytest.raises(Unavailable, match="tampered"):
        desk.draft(ANN, rules(a=0.2))


def test_a_hash_covers_every_field() -> None:
    from dataclasses import fields

    from tests.wire_samples import SAMPLES

    change = SAMPLES["change"]
    other = {"int": 99, "str": "other", "int | None": 99, "str | None": "other"}
    changed = [replace(change, **{field.name: other[str(field.type)]}) for field in fields(change) if field.name != "hash"]
    assert len({hash_of(one) for one in [change, *changed]}) == len(changed) + 1
    assert json.loads(rules(a=0.5).to_json())


def test_without_a_broker_changes_are_refused_and_what_was_known_stays(server: KafkaServer, kafka: str) -> None:
    desk = book(kafka)
    release = desk.promote(ANN, desk.draft(ANN, rules(a=0.5)).rule_set_hash)
    server.kill()
    try:
        with pytest.raises(Unavailable):
            desk.refresh()
        assert desk.in_force == release
    finally:
        server.start()
    desk.refresh()
    assert desk.draft(ANN, rules(a=0.6)).author == "ann"
