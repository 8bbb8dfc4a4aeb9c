"""Which rows an erasure takes: those with a lower number in the subject's log, whenever they come, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from analytics.erasure import ERASED, ROW, Forgotten, without
from analytics.ledger_rows import Extracted, LedgerRows, Value
from fraud.catalogue import CATALOGUE
from fraud.events import decision_id, hash64
from serving.records import EntityPosition, ErasureApplied, LabelApplied
from tests import wire_samples as wire

NOW_MS = wire.NOW_MS
HOUR_MS = 3_600_000


def decision(identity: str, *, card: str = "c", seq: int | None = 5, tenant: str = "acme", **subjects: Any) -> bytes:
    """An explained decision, so that it has rows in every table; ``seq`` is that of its card, user, device and address."""
    transaction = wire.transaction(transaction_id=identity, tenant_id=tenant, card_id=card, **subjects)
    ids = {"card": card, "user": transaction.user_id, "device": transaction.device_id, "ip": transaction.ip_hash}
    entities = [] if seq is None else [EntityPosition(kind, f"{tenant}|{one}", seq) for kind, one in ids.items() if one]
    changes = {"catalogue_version": CATALOGUE.version, "features": np.zeros(CATALOGUE.size), "contribution_base": 0.5, "entities": entities}
    whose = {"decision_id": decision_id(tenant, identity), "tenant_id": tenant, "transaction_id": identity, "transaction": transaction}
    return wire.codec().encode_decision(wire.decision(**whose, **changes))


def read(*values: bytes, at_ms: int = NOW_MS) -> Extracted:
    return LedgerRows(wire.codec()).decisions([Value(0, i, at_ms, value) for i, value in enumerate(values)])


def erased(kind: str = "card", key: str = "acme|c", seq: int = 6, at_ms: int = NOW_MS) -> Forgotten:
    value = wire.codec().encode_erasure_applied(ErasureApplied("acme", kind, key, seq, NOW_MS))
    found = LedgerRows(wire.codec()).erasures([Value(0, 0, at_ms, value)])
    forgotten = Forgotten()
    forgotten.remember(found.positions())
    return forgotten


def left(found: Extracted, forgotten: Forgotten) -> set[str]:
    """The transactions whose rows are kept, the same ones in every table."""
    tables = without(found.tables, forgotten.older(found.positions()))
    kept = [set(table["decision_id"].to_pylist()) for table in tables.values()]
    assert all(one == kept[0] for one in kept), {name: table.num_rows for name, table in tables.items()}
    names = {decision_id("acme", name): name for name in ("before", "after", "other", "unnumbered")}
    return {names[one] for one in kept[0]} if kept else set()


def test_what_has_a_lower_number_goes_from_every_table_and_what_has_a_higher_one_stays() -> None:
    found = read(decision("before", seq=5), decision("after", seq=7), decision("other", card="d", seq=5))
    assert set(found.tables) == {"transactions", "decisions", "rule_hits", "reasons"}
    assert left(found, erased()) == {"after", "other"}
    assert left(found, Forgotten()) == {"before", "after", "other"}


@pytest.mark.parametrize(("kind", "key"), [("user", "acme|u"), ("device", "acme|d"), ("ip", "acme|h")])
def test_every_kind_of_subject_has_its_own_column(kind: str, key: str) -> None:
    found = read(decision("before", user_id="u", device_id="d", ip_hash="h"), decision("other", user_id="d", device_id="h", ip_hash="u"))
    assert left(found, erased(kind, key)) == {"other"}


def test_another_tenants_card_of_the_same_name_is_somebody_else() -> None:
    found = read(decision("before", tenant="acme"), decision("after", tenant="bank"))
    kept = without(found.tables, erased().older(found.positions()))
    assert kept["transactions"]["tenant_id"].to_pylist() == ["bank"]


def test_a_decision_without_a_number_is_judged_by_its_time() -> None:
    assert left(read(decision("unnumbered", seq=None)), erased(at_ms=NOW_MS)) == set()
    assert left(read(decision("unnumbered", seq=None)), erased(at_ms=NOW_MS - 1)) == {"unnumbered"}


def test_a_log_that_began_again_is_not_older_than_an_erasure_of_the_log_before() -> None:
    found = read(decision("after", seq=1), at_ms=NOW_MS + HOUR_MS)
    assert left(found, erased()) == {"after"}


def test_the_last_of_several_erasures_counts() -> None:
    forgotten = erased(seq=6)
    forgotten.remember(pl.DataFrame({"kind": ["card"], "key": ["acme|c"], "seq": [3], "version": [1]}))
    assert left(read(decision("before", seq=5), decision("after", seq=7)), forgotten) == {"after"}


def test_what_was_kept_of_erasures_is_enough_to_judge() -> None:
    kept = pl.DataFrame({"kind": ["card"], "subject": [hash64("acme|c")], "seq": [6], "version": [NOW_MS]}, schema=ERASED)
    assert left(read(decision("before", seq=5), decision("after", seq=7)), Forgotten(kept)) == {"after"}


def test_a_label_goes_by_its_own_number() -> None:
    def label(identity: str, seq: int) -> Value:
        applied = LabelApplied(identity, "acme", True, NOW_MS, NOW_MS - 5, "analyst", [EntityPosition("card", "acme|c", seq)])
        return Value(0, seq, NOW_MS, wire.codec().encode_label_applied(applied))

    found = LedgerRows(wire.codec()).labels([label("before", 5), label("after", 7)])
    kept = without(found.tables, erased().older(found.positions()))
    assert kept["labels"]["transaction_id"].to_pylist() == ["after"]


def test_a_row_of_an_erasure_names_nobody() -> None:
    value = wire.codec().encode_erasure_applied(ErasureApplied("acme", "card", "acme|c-token", 6, NOW_MS - 1))
    (row,) = LedgerRows(wire.codec()).erasures([Value(0, 0, NOW_MS, value)]).tables["erasures"].to_pylist()
    assert "c-token" not in str(row)
    assert (row["tenant_id"], row["kind"], row["subject"], row["seq"]) == ("acme", "card", hash64("acme|c-token"), 6)
    assert row["requested_at"].timestamp() * 1000 == NOW_MS - 1


def test_an_erasure_of_what_nobody_is_named_by_is_set_aside() -> None:
    values = [wire.codec().encode_erasure_applied(ErasureApplied("acme", kind, "acme|c", 6, NOW_MS)) for kind in ("merchant", "card")]
    found = LedgerRows(wire.codec()).erasures([Value(0, i, NOW_MS, value) for i, value in enumerate(values)])
    assert [(reject.offset, reject.code) for reject in found.rejects] == [(0, "bad_kind")]
    assert found.positions()["kind"].to_list() == ["card"]


def test_nothing_gone_changes_nothing() -> None:
    tables = read(decision("before")).tables
    assert without(tables, pl.DataFrame(schema=ROW)) is tables


def test_no_records_at_all_are_older() -> None:
    assert erased().older(read().positions()).is_empty()
