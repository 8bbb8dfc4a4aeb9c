"""What ``bench sink`` puts into the ledger: the same decisions again and again, each time somebody else's."""

from __future__ import annotations

from itertools import islice

from fraud.events import decision_id
from infra.bench_sink import _renamed
from tests import wire_samples as wire


def test_no_identity_comes_twice_and_each_is_that_of_its_transaction() -> None:
    decisions = [wire.decision(transaction_id=name, transaction=wire.transaction(transaction_id=name)) for name in ("a", "b", "c")]
    sent = list(islice(_renamed(decisions), 9))
    assert len({one.decision_id for one in sent}) == 9
    for one in sent:
        assert one.transaction.transaction_id == one.transaction_id
        assert one.decision_id == decision_id(one.tenant_id, one.transaction_id)
