"""While the store heals, an entity that it does not hold is missing; otherwise it is new."""

from __future__ import annotations

import numpy as np

from api.features import Evaluated, FeatureReader
from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, Kind, Transaction, entities_of
from fraud.kernel import empty_state
from fraud.state import encode_state
from fraud.vector import Evaluator, evaluate_vector, event_row
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


def served_from(reading: Reading | None) -> Evaluated:
    """The features of ``TX`` over what was read for ``entities_of(TX)``; ``None`` when the store is away."""
    reader = FeatureReader()
    return reader.evaluate([TX], None if reading is None else reader.decoded(entities_of(TX), reading))


def kinds_known(served: Evaluated) -> list[str] | None:
    return None if served.views is None else [view.kind for view in served.views[0]]


def test_the_store_is_asked_for_whom_the_transaction_names() -> None:
    assert entities_of(TX) == [(Kind.CARD, "bank|c"), (Kind.USER, "bank|u"), (Kind.MERCHANT, "bank|m")]


def test_an_absent_entity_of_a_whole_store_is_new() -> None:
    served = served_from(Reading([None] * 3, WHOLE))
    assert kinds_known(served) == [KINDS[Kind.CARD], KINDS[Kind.USER], KINDS[Kind.MERCHANT]]
    assert served.features[0, COUNT] == 1.0
    assert served.features.tobytes() == evaluate_vector(TX, [None] * 5).tobytes()


def test_an_absent_entity_of_a_store_that_heals_is_missing_and_one_that_is_there_is_served() -> None:
    served = served_from(Reading([CARD, None, None], HEALING))
    assert kinds_known(served) == [KINDS[Kind.CARD]]
    expected = evaluate_vector(TX, [CARD.state, None, None, None, None])
    for kind in (Kind.USER, Kind.MERCHANT):
        assert np.isfinite(expected[CATALOGUE.slices[kind]]).any()  # control: they would have been counted from nothing
        expected[CATALOGUE.slices[kind]] = np.nan
    assert served.features.tobytes() == expected.tobytes()
    assert served.features[0, COUNT] == 2.0


def test_without_an_answer_whom_the_transaction_names_is_missing_and_the_rest_was_never_there() -> None:
    served = served_from(None)
    assert kinds_known(served) is None
    for kind in Kind:
        assert np.isnan(served.features[0, CATALOGUE.slices[kind]]).all()
    assert np.isfinite(served.features[0, : CATALOGUE.slices[Kind.CARD].start]).any()
