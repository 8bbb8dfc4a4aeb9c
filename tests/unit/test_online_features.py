"""While the store heals, an entity that it does not hold is missing; otherwise it is new."""

from __future__ import annotations

import numpy as np

from fraud.catalogue import CATALOGUE
from fraud.events import Kind, Transaction
from fraud.kernel import empty_state
from fraud.state import encode_state
from fraud.vector import Evaluator, evaluate_vector, event_row
from serving.online_features import FEATURES_MISSING, NOTHING_READ, entities_of, serve_features
from serving.online_health import StoreHealth
from serving.state_reads import Reading, StoredState

TX = Transaction("t2", "bank", "c", "m", 500, "EUR", 1_700_000_060_000, user_id="u")
WHOLE, HEALING = StoreHealth(is_whole=True), StoreHealth(is_whole=False, healing_since_ms=1)


def known_card() -> StoredState:
    evaluator = Evaluator()
    columns = evaluator.catalogue.slices[Kind.CARD]
    row = event_row(Transaction("t1", "bank", "c", "m", 100, "EUR", 1_700_000_000_000))
    state = evaluator.observe(Kind.CARD, empty_state(), row, np.empty(columns.stop - columns.start))
    return StoredState(encode_state(state, Kind.CARD), 1, 1_700_000_000_000)


CARD = known_card()
COUNT = CATALOGUE.index["card_count_tx_1h"]


def test_the_store_is_asked_for_whom_the_transaction_names() -> None:
    assert entities_of(TX) == [(Kind.CARD, "bank|c"), (Kind.USER, "bank|u"), (Kind.MERCHANT, "bank|m"), None, None]


def test_an_absent_entity_of_a_whole_store_is_new() -> None:
    served = serve_features(TX, Reading([None] * 5, WHOLE))
    assert (served.missing, served.reason) == ((), None)
    assert served.values[COUNT] == 1.0
    assert served.values.tobytes() == evaluate_vector(TX, [None] * 5).tobytes()


def test_an_absent_entity_of_a_store_that_heals_is_missing_and_one_that_is_there_is_served() -> None:
    served = serve_features(TX, Reading([CARD, None, None, None, None], HEALING))
    assert served.missing == (Kind.USER, Kind.MERCHANT)
    assert served.reason == FEATURES_MISSING
    expected = evaluate_vector(TX, [CARD.state, None, None, None, None])
    for kind in (Kind.USER, Kind.MERCHANT):
        assert np.isfinite(expected[CATALOGUE.slices[kind]]).any()  # control: they would have been counted from nothing
        expected[CATALOGUE.slices[kind]] = np.nan
    assert served.values.tobytes() == expected.tobytes()
    assert served.values[COUNT] == 2.0


def test_without_an_answer_whom_the_transaction_names_is_missing_and_the_rest_was_never_there() -> None:
    served = serve_features(TX, NOTHING_READ)
    assert served.missing == (Kind.CARD, Kind.USER, Kind.MERCHANT)
    assert np.isnan(served.values[COUNT])
    assert np.isfinite(served.values[: CATALOGUE.slices[Kind.CARD].start]).any()
