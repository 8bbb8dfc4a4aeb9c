"""The committed ledger as a history: events, labels, and the order in which the stream applied them.

Reads what :mod:`serving.ledger` yields and gives the arrays that :mod:`training.backfill` takes, with the features that the
stream recorded, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE
from fraud.events import KINDS, Kind, hash64
from fraud.vector import event_row
from serving import ledger
from serving.codec import Codec
from serving.records import Decision, LabelApplied
from training.backfill import LabelTable

__all__ = ["IncompleteLedger", "LedgerHistory", "load"]

Ints = NDArray[np.int64]
_KIND = {name: Kind(i) for i, name in enumerate(KINDS)}
_LABELLED = (Kind.CARD, Kind.USER, Kind.MERCHANT)


class IncompleteLedger(ValueError):
    """An entity's entries do not number 1, 2, 3 …: retention has removed some, or the ledger is wrong."""


@dataclass(slots=True, frozen=True)
class LedgerHistory:
    """``frame`` has tenant_id, transaction_id, card_id, event_time_ms, catalogue_version and outcome of each decision; the arrays its rows.

    ``recorded`` is float64[N, F], ``event_seqs`` int64[N, 5] and ``label_seqs`` int64[M, 5] by ``Kind``, -1 where there is none.
    ``repeated`` counts records of a decision that an earlier record had already: duplicates in the ledger.
    """

    frame: pl.DataFrame
    events: Ints
    recorded: NDArray[np.float64]
    event_seqs: Ints
    labels: LabelTable
    label_seqs: Ints
    repeated: int

    def check_complete(self) -> None:
        """Raise IncompleteLedger unless every entity's numbers are 1, 2, 3 … without gap or repetition."""
        words = {Kind.CARD: k.E_CARD, Kind.USER: k.E_USER, Kind.MERCHANT: k.E_MERCHANT, Kind.DEVICE: k.E_DEVICE, Kind.IP: k.E_IP}
        for kind in Kind:
            owners, seqs = self.events[:, words[kind]], self.event_seqs[:, kind]
            if kind in _LABELLED:
                owners = np.concatenate([owners, self.labels.entities[:, _LABELLED.index(kind)]])
                seqs = np.concatenate([seqs, self.label_seqs[:, kind]])
            present = owners != 0
            _check_numbers(kind, owners[present], seqs[present])


def _check_numbers(kind: Kind, owners: Ints, seqs: Ints) -> None:
    order = np.lexsort((seqs, owners))
    owners, seqs = owners[order], seqs[order]
    first = np.ones(len(owners), dtype=np.bool_)
    first[1:] = owners[1:] != owners[:-1]
    expected = np.where(first, 1, np.concatenate([[0], seqs[:-1]]) + 1)
    wrong = int((seqs != expected).sum())
    if wrong:
        raise IncompleteLedger(f"{wrong} entries of {kind.name.lower()} logs do not continue their log's numbering")


def load(records: Iterable[tuple[str, bytes | None]], codec: Codec) -> LedgerHistory:
    """Build the history from (topic, value) pairs of the topics ``fraud-events`` and ``labels-applied``."""
    decisions: dict[str, Decision] = {}
    applied: list[LabelApplied] = []
    repeated = 0
    for topic, value in records:
        if topic == ledger.DECISIONS:
            decision = codec.decode_decision(value)
            repeated += decision.decision_id in decisions
            decisions.setdefault(decision.decision_id, decision)
        elif topic == ledger.LABELS_APPLIED:
            applied.append(codec.decode_label_applied(value))
    found = list(decisions.values())
    return LedgerHistory(
        frame=_frame(found),
        events=np.array([event_row(d.transaction) for d in found], dtype=np.int64).reshape(len(found), k.EVENT_WORDS),
        recorded=_recorded(found),
        event_seqs=_seqs(found),
        labels=_labels(applied),
        label_seqs=_seqs(applied),
        repeated=repeated,
    )


def _recorded(decisions: list[Decision]) -> NDArray[np.float64]:
    """Features as served; missing where another version of the catalogue served them, whose columns mean something else."""
    recorded = np.full((len(decisions), CATALOGUE.size), np.nan)
    for row, decision in enumerate(decisions):
        if decision.catalogue_version == CATALOGUE.version:
            recorded[row] = decision.features
    return recorded


def _frame(decisions: list[Decision]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "tenant_id": [d.tenant_id for d in decisions],
            "transaction_id": [d.transaction_id for d in decisions],
            "card_id": [d.transaction.card_id for d in decisions],
            "event_time_ms": [d.event_time_ms for d in decisions],
            "catalogue_version": [d.catalogue_version for d in decisions],
            "outcome": [d.outcome for d in decisions],
        },
        schema={
            "tenant_id": pl.String,
            "transaction_id": pl.String,
            "card_id": pl.String,
            "event_time_ms": pl.Int64,
            "catalogue_version": pl.String,
            "outcome": pl.String,
        },
    )


def _seqs(records: Sequence[Decision | LabelApplied]) -> Ints:
    seqs = np.full((len(records), len(Kind)), -1, dtype=np.int64)
    for row, record in enumerate(records):
        for position in record.entities:
            seqs[row, _KIND[position.kind]] = position.seq
    return seqs


def _labels(applied: list[LabelApplied]) -> LabelTable:
    facts = np.zeros((len(applied), 3), dtype=np.int64)
    entities = np.zeros((len(applied), len(_LABELLED)), dtype=np.int64)
    for row, label in enumerate(applied):
        facts[row] = label.transaction_time_ms, hash64(f"{label.tenant_id}|{label.transaction_id}"), label.is_fraud
        for position in label.entities:
            entities[row, _LABELLED.index(_KIND[position.kind])] = hash64(position.key)
    return LabelTable(facts, np.array([label.label_time_ms for label in applied], dtype=np.int64), entities)
