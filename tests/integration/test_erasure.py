"""A person asks to be forgotten: what is found of the card afterwards, searched for in every store of the running system."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from analytics.history import LedgerTopics
from api.client import Client
from api.identity import Role
from api.schemas import ScoreAnswer, ScoreRequest
from fraud.events import Kind, entity_key, hash64
from fraud.state import decode_state, encode_state, erased_state
from infra.api_access import Access
from infra.application import bring_up, codec_of
from infra.features import backfill_recorded
from infra.house_access import house_settings
from infra.stack import Stack
from serving import ledger
from serving.clock import now_ms
from serving.feast_layout import EntityKeys
from serving.online_store import OnlineStore
from serving.state_reads import StoredState
from tests.kept import in_clickhouse, in_kafka, in_logs, in_redis
from tests.private_stack import private_stack, put_small_model_into_production

GONE, STAYS = "c-to-be-forgotten", "c-to-be-kept"
TENANT = "default"
# these lose their records with retention; they hold the card's token, as the request to erase itself does
PASSING = {
    *(ledger.TRANSACTIONS, ledger.FAST_LANE, ledger.DECISIONS, ledger.ALERTS, ledger.DEAD_LETTERS),
    *(ledger.LABELS, ledger.LABELS_APPLIED, ledger.ERASURES, ledger.ERASURES_APPLIED),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own: a later job that began from nothing would decide what was erased again, under other numbers."""
    with private_stack(tmp_path_factory.mktemp("erasure"), analytics=True) as stack:
        put_small_model_into_production(stack)
        bring_up(stack, lambda _text: None)
        yield stack


def client(stack: Stack, role: Role) -> Client:
    return Client(stack.addresses.api_url, token=Access(stack.layout).issue_token(TENANT, "ann", role))


def pay(shop: Client, number: int, card_id: str) -> ScoreAnswer:
    """Pay and return the answer."""
    asked = ScoreRequest(
        transaction_id=f"paid-{number}-{hash64(card_id):x}",  # it names nobody
        card_id=card_id,
        merchant_id="m-erasure",
        amount_minor=1_000 + number % 100,
        currency="EUR",
        event_time_ms=now_ms(),
    )
    return shop.score(asked)


def wait_for_a_whole_store(shop: Client) -> None:
    """A job that has just started fills the store first; until then what is not there may have been lost, and is missing."""
    deadline_s = time.monotonic() + 90.0
    while pay(shop, time.monotonic_ns(), "c-probe").degraded:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)


def stored(stack: Stack, card_id: str) -> StoredState | None:
    store = OnlineStore(stack.addresses.redis_url, timeout_s=1.0)
    try:
        return store.read([(Kind.CARD, entity_key(TENANT, card_id))])[0]
    finally:
        store.close()


def wait_for_seq(stack: Stack, card_id: str, seq: int) -> StoredState:
    """The online row of a card as soon as its log has come that far."""
    deadline_s = time.monotonic() + 90.0
    while True:
        row = stored(stack, card_id)
        if row is not None and row.seq >= seq:
            return row
        assert time.monotonic() < deadline_s, (card_id, row and row.seq)
        time.sleep(0.2)


def places(stack: Stack, card_id: str) -> set[str]:
    """Where the card's token stands: each topic once, each key of Redis for itself, each log file, each table of ClickHouse."""
    addresses = stack.addresses
    kept = (*in_redis(addresses.redis_url), *in_kafka(addresses.bootstrap_servers), *in_logs(stack.layout.logs))
    return {place for place, content in kept if card_id.encode() in content} | tables(stack, card_id)


def tables(stack: Stack, card_id: str) -> set[str]:
    return {place for place, content in in_clickhouse(house_settings(stack.plan)) if card_id.encode() in content}


def wait_for_tables(stack: Stack, card_id: str, *, named: bool) -> None:
    """Until ClickHouse names the card, or until it does not: the sink follows the ledger, which is committed once a second."""
    deadline_s = time.monotonic() + 60.0
    while bool(tables(stack, card_id)) != named:
        assert time.monotonic() < deadline_s, tables(stack, card_id)
        time.sleep(0.5)


def test_of_a_card_that_was_erased_only_the_number_of_its_log_is_left(running: Stack) -> None:
    codec, bootstrap = codec_of(running.plan), running.addresses.bootstrap_servers
    with client(running, Role.SERVICE) as shop, client(running, Role.ADMIN) as officer:
        wait_for_a_whole_store(shop)
        for number in range(5):
            pay(shop, number, GONE)
            pay(shop, number, STAYS)
        assert wait_for_seq(running, GONE, 5).seq == 5
        wait_for_seq(running, STAYS, 5)
        wait_for_tables(running, GONE, named=True)
        before = places(running, GONE)
        assert sum(place.startswith("redis value") for place in before) == 5  # the control: the decisions that are found by id
        done = officer.erase("card", GONE)
        assert (done.online_rows, done.decisions) == (1, 5)
        row = wait_for_seq(running, GONE, 6)
        assert row.state == encode_state(erased_state(6), Kind.CARD)

        wait_for_tables(running, GONE, named=False)
        left = places(running, GONE)
        online_key = EntityKeys("fraudguard").encode(Kind.CARD, entity_key(TENANT, GONE))
        assert {place for place in left if place.startswith("redis")} == {f"redis key {online_key!r}"}
        assert {place.removeprefix("kafka ") for place in left if place.startswith("kafka")} <= PASSING
        assert not any(place.startswith("log") for place in left)
        assert len(decode_state(wait_for_seq(running, STAYS, 5).state, Kind.CARD)) > len(erased_state(1))  # the other card keeps all

        assert "clickhouse transactions" in tables(running, STAYS)

        again = pay(shop, 99, GONE).decision_id
        assert wait_for_seq(running, GONE, 7).seq == 7
        shown = shop.decision(again)
    assert isinstance(shown.features, dict)
    assert shown.features["card_count_tx_30d"] == 1
    assert next(one["seq"] for one in shown.served_at if one["kind"] == "card") == 6
    wait_for_commit(bootstrap, again)
    report = backfill_recorded(LedgerTopics(bootstrap, codec), out=None, check=None, say=lambda _text: None)
    assert report["differing_from_record"] == 0
    assert report["events"] - report["answered_without_store"] >= 11  # ours were all compared
    applied = [codec.decode_erasure_applied(one.value()) for one in ledger.read_to_end(bootstrap, (ledger.ERASURES_APPLIED,))]
    assert [(one.kind, one.key, one.seq) for one in applied] == [("card", entity_key(TENANT, GONE), 6)]


def wait_for_commit(bootstrap: str, wanted: str) -> None:
    """Until a decision is in the committed ledger."""
    deadline_s = time.monotonic() + 60.0
    while not any(wanted.encode() in (one.value() or b"") for one in ledger.read_to_end(bootstrap, (ledger.DECISIONS,))):
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
