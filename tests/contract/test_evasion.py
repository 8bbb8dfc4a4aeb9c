"""What a fraudster tries at the front door: probing for the threshold, another spelling of a card, nowhere as a place, odd currencies.

The API answers and the stream applies, as in ``test_api_parity``; the shipped rules decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from fraud.catalogue import CATALOGUE
from fraud.errors import InvalidEvent
from fraud.events import Transaction, entities_of
from serving import ledger
from tests.scoring_world import CODEC, InForce, World
from training.parity import bits_differ

from .pipeline import Pipeline, record
from .test_api_parity import Stream, copy_to_store

NOW_MS = 1_700_000_000_000
TRIES = 20
PROBING = "VELOCITY_1H"


class Shop:
    """One merchant's terminal: every payment is answered by the API, then applied by the stream, then known to the store."""

    def __init__(self) -> None:
        self.stream = Stream()
        self.world = World(in_force=InForce(model=None), now_ms=lambda: NOW_MS + 86_400_000, work=lambda: 0.0)
        self._paid = 0

    def pay(self, card_id: str, amount_minor: int, **changed: Any) -> dict[str, Any]:
        """The answer to a payment; one a second and a half."""
        self._paid += 1
        values: dict[str, Any] = {
            "currency": "EUR",
            "event_time_ms": NOW_MS + 1_500 * self._paid,
            "country": "FR",
            "card_country": "FR",
        } | changed
        tx = Transaction(
            transaction_id=f"t{self._paid}", tenant_id="acme", card_id=card_id, merchant_id="m1", amount_minor=amount_minor, **values
        )
        (answer,) = asyncio.run(self.world.ask(tx))
        if isinstance(answer, Exception):
            raise answer
        sent = CODEC.decode_transaction(self.world.publisher.published[-1][1])
        self.stream.apply(CODEC.encode_transaction(sent), sent.card_id, entities_of(sent))
        for entity in entities_of(sent):
            copy_to_store(self.world, self.stream, entity)
        return dict(orjson.loads(answer))

    @property
    def features(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Of the last answer."""
        return CODEC.decode_decision(CODEC.decode_transaction(self.world.publisher.published[-1][1]).decided).features


def probe(shop: Shop, card_of: Callable[[int], str]) -> list[set[str]]:
    """A binary search for the largest amount that is allowed; the reasons that each try met."""
    low, high = 100, 5_000_000
    met: list[set[str]] = []
    for attempt in range(TRIES):
        amount = (low + high) // 2
        answer = shop.pay(card_of(attempt), amount)
        met.append({reason["code"] for reason in answer["reasons"]})
        low, high = (amount, high) if answer["decision"] == "ALLOW" else (low, amount)
    return met


def test_who_probes_for_the_threshold_is_flagged_within_twenty_tries_whatever_it_asks_for_then() -> None:
    shop = Shop()
    met = probe(shop, lambda _attempt: "prober")
    assert [PROBING in codes for codes in met].index(True) < TRIES - 5
    assert PROBING in {reason["code"] for reason in shop.pay("prober", 100)["reasons"]}
    assert shop.pay("somebody-else", 100)["reasons"] == []


def test_the_same_amounts_by_as_many_cards_flag_none_of_them() -> None:
    """The control: it is the probing that is flagged, not the amounts."""
    assert not any(PROBING in codes for codes in probe(Shop(), lambda attempt: f"card-{attempt}"))


SPELLINGS = ("card-7", "\uff43\uff41\uff52\uff44-7", "card\uff0d7", "card-\u2466", "car\u217e-7")


def test_every_spelling_of_a_card_is_one_card_to_the_api() -> None:
    shop = Shop()
    for spelling in SPELLINGS:
        shop.pay(spelling, 500)
    (card,) = {one[0] for one in shop.world.publisher.published}
    assert card == b"card-7"
    assert shop.features[CATALOGUE.index["card_count_tx_5m"]] == len(SPELLINGS)


def test_another_tenant_or_another_case_is_another_card() -> None:
    """Tokens are compared as they are: what a processor calls two cards are two cards."""
    shop = Shop()
    shop.pay("card-7", 500)
    shop.pay("CARD-7", 500)
    assert shop.features[CATALOGUE.index["card_count_tx_5m"]] == 1


def test_a_record_of_the_topic_comes_with_the_key_of_its_cards_own_spelling() -> None:
    """Another key is another partition, where the card would begin a second log beside its own."""
    plain = Transaction("t1", "acme", SPELLINGS[1], "m1", 500, "EUR", NOW_MS)
    for key, topic in ((SPELLINGS[1], ledger.DEAD_LETTERS), ("card-7", ledger.DEAD_LETTERS)):
        pipeline = Pipeline(shards=1)
        pipeline.send(0, [record(pipeline.codec.encode_transaction(plain), key)])
        (row,) = pipeline.drain()
        assert (row.topic, pipeline.codec.decode_dead_letter(row.value).code) == (topic, "key_mismatch")
    pipeline = Pipeline(shards=1)
    pipeline.send(0, [record(pipeline.codec.encode_transaction(replace(plain, card_id="card-7")), "card-7")])
    assert [row.topic for row in pipeline.drain()] == [ledger.DECISIONS]


def test_nowhere_is_no_place() -> None:
    """(0, 0) is what broken terminals send: neither a distance from home nor a flight comes of it."""
    with_zero, without = Shop(), Shop()
    for shop, place in ((with_zero, {"lat": 0.0, "lon": 0.0}), (without, {})):
        shop.pay("card-7", 500, lat=48.8, lon=2.3, billing_lat=48.8, billing_lon=2.3)
        shop.pay("card-7", 500, billing_lat=48.8, billing_lon=2.3, **place)
    assert not bits_differ(with_zero.features, without.features).any()
    there = Shop()
    there.pay("card-7", 500, lat=48.8, lon=2.3, billing_lat=48.8, billing_lon=2.3)
    there.pay("card-7", 500, lat=0.0, lon=0.1, billing_lat=48.8, billing_lon=2.3)  # the control: eleven kilometres from nowhere
    assert bits_differ(there.features, without.features).any()


@pytest.mark.parametrize(("currency", "amount_minor", "cents"), [("JPY", 10_000, 6_371), ("KWD", 3_000, 974), ("USD", 12_345, 12_345)])
def test_an_amount_is_exact_in_a_currency_of_any_number_of_decimals(currency: str, amount_minor: int, cents: int) -> None:
    """A yen has no hundredth and a dinar has a thousandth: neither makes a payment a hundred times larger or ten times smaller."""
    shop = Shop()
    shop.pay("card-7", amount_minor, currency=currency)
    shop.pay("card-7", amount_minor, currency=currency)
    assert shop.features[CATALOGUE.index["amount"]] == cents
    assert shop.features[CATALOGUE.index["card_sum_amount_5m"]] == 2 * cents


def test_what_cannot_be_seen_is_in_no_card() -> None:
    """A zero-width space would make a second card that reads like the first."""
    with pytest.raises(InvalidEvent, match="bad_text"):
        Shop().pay("card\u200b-7", 500)
