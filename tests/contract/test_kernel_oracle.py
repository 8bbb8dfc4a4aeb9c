"""The kernel against the naive oracle, feature by feature, over logs that are drawn to hurt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.catalogue import CATALOGUE, Catalogue
from fraud.events import Kind, Label, Transaction
from tests.contract.logs import Entity, differences, kind_names, logs, random_log
from tests.contract.naive import Naive

Log = list[Transaction | Label]


def disagreements(kind: Kind, log: Log, oracle: Callable[..., Naive] = Naive, catalogue: Catalogue = CATALOGUE) -> list[str]:
    """Run a log through kernel and oracle; every feature value of every transaction that differs."""
    entity = Entity(kind, catalogue)
    found = []
    for i, entry in enumerate(log):
        out = entity.apply(entry)
        if out is None or isinstance(entry, Label):
            continue
        naive = oracle(kind, log[:i], entry)
        found += [f"operation {i}: {text}" for text in differences(entity.names, map(naive.value, entity.names), out)]
    return found


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
def test_every_feature_equals_the_oracle(kind: Kind, data: st.DataObject) -> None:
    log = data.draw(logs(kind))
    assert disagreements(kind, log) == []
