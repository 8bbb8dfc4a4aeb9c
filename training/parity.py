"""Comparing two computations of the same features: bit for bit, or with a published reference.

This module must not compute features itself; it compares what others computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.events import KINDS

__all__ = ["HANDBOOK_FEATURES", "Parity", "bits_differ", "compare", "is_handbook"]

# Published column -> (our feature, factor to its unit): the Handbook counts money in major units.
HANDBOOK_FEATURES: Mapping[str, tuple[str, float]] = {
    "TX_DURING_WEEKEND": ("is_weekend", 1.0),
    "TX_DURING_NIGHT": ("is_night", 1.0),
    **{f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW": (f"card_count_tx_{window}", 1.0) for days, window in ((1, "24h"), (7, "7d"), (30, "30d"))},
    **{
        f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW": (f"card_mean_amount_{window}", 0.01)
        for days, window in ((1, "24h"), (7, "7d"), (30, "30d"))
    },
    **{f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW": (f"merchant_count_delayed7d_{days}d", 1.0) for days in (1, 7, 30)},
    **{f"TERMINAL_ID_RISK_{days}DAY_WINDOW": (f"merchant_risk_delayed7d_{days}d", 1.0) for days in (1, 7, 30)},
}
HANDBOOK_TOLERANCE = 1e-6


class NotComparable(ValueError):
    """The reference has neither our features nor the Handbook's, or none of our transactions."""


@dataclass(slots=True)
class Parity:
    """What a comparison found.

    ``differing_rows`` counts transactions with at least one differing value; ``by_entity`` counts them per group of features
    and ``by_feature`` lists the features that differ.  ``rows_in_ties`` are the differing rows whose card has another
    transaction in the same second, which a definition over whole seconds may order either way.
    """

    reference: str
    compared_rows: int
    missing_rows: int
    differing_rows: int
    rows_in_ties: int
    by_entity: dict[str, int] = field(default_factory=dict)
    by_feature: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)

    @property
    def as_json(self) -> dict[str, object]:
        return asdict(self)


def bits_differ(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where two arrays differ in their bits; missing equals missing."""
    different: NDArray[np.bool_] = np.ascontiguousarray(ours).view(np.int64) != np.ascontiguousarray(theirs).view(np.int64)
    if different.any():  # most often nothing does, and then nobody need ask what is missing
        different &= ~(np.isnan(ours) & np.isnan(theirs))
    return different


def is_handbook(columns: list[str]) -> bool:
    """Whether a reference is the Handbook's published feature file."""
    return set(HANDBOOK_FEATURES) <= set(columns)


def compare(frame: pl.DataFrame, features: NDArray[np.float64], reference: pl.DataFrame) -> Parity:
    """Compare features with a reference that has one row a transaction.

    Args:
        frame: canonical rows, at least ``tenant_id``, ``transaction_id``, ``card_id`` and ``event_time_ms``.
        features: float64[N, F] of those rows, in catalogue order.
        reference: either ``transaction_id`` and columns named like our features (compared bit for bit), or the Handbook's
            columns (compared within 1e-6).

    Raises:
        NotComparable: nothing in common.
    """
    handbook = is_handbook(reference.columns)
    names = list(HANDBOOK_FEATURES) if handbook else [name for name in CATALOGUE.names if name in reference.columns]
    id_column = "TRANSACTION_ID" if handbook else "transaction_id"
    if not names or id_column not in reference.columns:
        raise NotComparable(f"the reference has no {id_column} or none of the features")
    # two tenants may use the same ids; a published reference knows no tenants
    by_tenant = "tenant_id" in reference.columns
    ours_at, theirs_at = _matched(_ids(frame, "transaction_id", by_tenant), _ids(reference, id_column, by_tenant))
    if len(ours_at) == 0:
        raise NotComparable("the reference has none of these transactions")
    differs = np.empty((len(ours_at), len(names)), dtype=np.bool_)
    for column, name in enumerate(names):
        theirs = reference[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()[theirs_at]
        if handbook:
            own, factor = HANDBOOK_FEATURES[name]
            mine = features[ours_at, CATALOGUE.index[own]] * factor
            differs[:, column] = ~(np.abs(mine - theirs) <= HANDBOOK_TOLERANCE)
        else:
            differs[:, column] = bits_differ(features[ours_at, CATALOGUE.index[name]], theirs)
    return _summed(frame, names, ours_at, differs, reference.height - len(ours_at), "handbook" if handbook else "features")


def _ids(frame: pl.DataFrame, column: str, by_tenant: bool) -> pl.Series:
    identity = pl.concat_str("tenant_id", column, separator="|") if by_tenant else pl.col(column).cast(pl.String)
    return frame.select(identity.alias("id"))["id"]


def _matched(ours: pl.Series, theirs: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the transactions that both have."""
    left = pl.DataFrame({"id": ours.cast(pl.String)}).with_row_index("ours")
    right = pl.DataFrame({"id": theirs}).with_row_index("theirs")
    joined = left.join(right, on="id", how="inner", maintain_order="left")
    return joined["ours"].cast(pl.Int64).to_numpy(), joined["theirs"].cast(pl.Int64).to_numpy()


def _summed(
    frame: pl.DataFrame, names: list[str], ours_at: NDArray[np.int64], differs: NDArray[np.bool_], missing: int, reference: str
) -> Parity:
    rows = differs.any(axis=1)
    groups = [_entity_of(HANDBOOK_FEATURES[name][0] if reference == "handbook" else name) for name in names]
    by_entity = {
        group: int(differs[:, [i for i, other in enumerate(groups) if other == group]].any(axis=1).sum())
        for group in ("event", *KINDS)
        if group in groups
    }
    counts = differs.sum(axis=0).tolist()
    ids = frame["transaction_id"].gather(ours_at[rows][:5]).cast(pl.String).to_list()
    return Parity(
        reference=reference,
        compared_rows=len(ours_at),
        missing_rows=missing,
        differing_rows=int(rows.sum()),
        rows_in_ties=int((rows & _in_tie(frame)[ours_at]).sum()),
        by_entity=by_entity,
        by_feature={name: count for name, count in zip(names, counts, strict=True) if count},
        examples=ids,
    )


def _entity_of(feature: str) -> str:
    prefix = feature.split("_", 1)[0]
    return prefix if prefix in KINDS and feature not in ("card_not_present", "card_age_days") else "event"


def _in_tie(frame: pl.DataFrame) -> NDArray[np.bool_]:
    """Rows whose card has more than one transaction in the same second."""
    second = pl.col("event_time_ms") // 1000
    return frame.select(pl.len().over("tenant_id", "card_id", second) > 1).to_series().to_numpy()
