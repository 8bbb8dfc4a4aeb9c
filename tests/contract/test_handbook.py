"""The 14 features of the Fraud Detection Handbook, through FraudGuard's kernel, equal the published ones.

Two proofs.  A slice of the published data where it exists (``../shared/data``, or the folder that FRAUDGUARD_DATA names): all
transactions of some customers and of some terminals over the whole half year; the whole file is a command.  And a small series of
our own against the Handbook's definitions written with pandas' rolling windows, so that the suite stands without that data.

The Handbook's terminal risk takes labels for granted after seven days; here they arrive as labels at t + 7 d, before the
transactions of the same instant.  Our amounts are in cents.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud import kernel as k
from fraud.catalogue import EVENT_FEATURES, Catalogue
from fraud.events import Kind, hash64
from fraud.vector import all_event_features
from tests.contract.logs import kind_names

DATA = Path(os.environ.get("FRAUDGUARD_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
DAY_MS = 86_400_000
DELAY_MS = 7 * DAY_MS
MAX_TIES = 58  # same-card-same-second rows of the whole file

CUSTOMER = {
    f"CUSTOMER_ID_{theirs}_{days}DAY_WINDOW": f"card_{ours}_{days}d"
    for days in (1, 7, 30)
    for theirs, ours in (("NB_TX", "count_tx"), ("AVG_AMOUNT", "mean_amount"))
}
TERMINAL = {
    f"TERMINAL_ID_{theirs}_{days}DAY_WINDOW": f"merchant_{ours}_delayed7d_{days}d"
    for days in (1, 7, 30)
    for theirs, ours in (("NB_TX", "count"), ("RISK", "risk"))
}
CALENDAR = {"TX_DURING_WEEKEND": "is_weekend", "TX_DURING_NIGHT": "is_night"}


def ours(frame: pd.DataFrame, kind: Kind) -> pd.DataFrame:
    """Our features of one entity kind for a frame of transactions in the Handbook's columns, in its order, amounts in euros.

    The frame holds all transactions of the entities concerned, by time; the result has the Handbook's names.
    """
    names = {**CALENDAR, **(CUSTOMER if kind == Kind.CARD else TERMINAL)}
    catalogue = Catalogue.of([name for name in names.values() if name.startswith(kind.name.lower())])
    t = frame["TX_DATETIME"].to_numpy().astype("datetime64[ms]").astype(np.int64)
    events = np.zeros((len(frame), k.EVENT_WORDS), dtype=np.int64)
    events[:, k.E_T] = t
    events[:, k.E_AMOUNT] = np.rint(frame["TX_AMOUNT"].to_numpy() * 100)
    events[:, k.E_TX] = [hash64(f"default|{i}") for i in frame["TRANSACTION_ID"]]
    events[:, k.E_CARD] = frame["CUSTOMER_ID"].to_numpy() + 1
    events[:, k.E_MERCHANT] = frame["TERMINAL_ID"].to_numpy() + 1

    fraud = np.flatnonzero(frame["TX_FRAUD"].to_numpy())
    labels = np.stack([t[fraud], events[fraud, k.E_TX], np.ones(len(fraud), np.int64)], axis=1)
    entity = frame["CUSTOMER_ID" if kind == Kind.CARD else "TERMINAL_ID"].to_numpy()
    # by entity, then time, then labels before transactions, then the order of the file
    items = np.concatenate([np.arange(len(frame)), -1 - np.arange(len(fraud))])
    entities = np.concatenate([entity, entity[fraud]])
    times = np.concatenate([t, t[fraud] + DELAY_MS])
    order = np.lexsort((np.arange(len(items)), items >= 0, times, entities))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(entities[order])) + 1, [len(items)]])

    out = np.full((len(frame), catalogue.size), np.nan)
    all_event_features(events, out)
    seqs, label_seqs = np.zeros(len(frame), np.int64), np.zeros(len(fraud), np.int64)
    columns = catalogue.slices[kind]
    k.replay(events, labels, items[order], starts, catalogue.plans[kind], k.new_scratch(), columns.start, out, seqs, label_seqs)
    result = pd.DataFrame({theirs: out[:, catalogue.index[name]] for theirs, name in names.items()}, index=frame.index)
    for column in result.columns[result.columns.str.contains("AVG_AMOUNT")]:
        result[column] /= 100
    return result


def differing(got: pd.DataFrame, expected: pd.DataFrame) -> pd.Series:
    """Rows of which a feature differs by 1e-6 or more; missing differs from everything."""
    near = np.abs(got.to_numpy() - expected[got.columns].to_numpy().astype(float)) < 1e-6
    return pd.Series(~near.all(axis=1), index=got.index)


# --- the published features ------------------------------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(not (DATA / "handbook_features.parquet").exists(), reason="the Handbook's data is not here")


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    transactions = pd.read_parquet(
        DATA / "handbook.parquet", columns=["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"]
    )
    features = pd.read_parquet(DATA / "handbook_features.parquet")
    assert (transactions["TRANSACTION_ID"].to_numpy() == features["TRANSACTION_ID"].to_numpy()).all()
    return pd.concat([transactions, features.drop(columns="TRANSACTION_ID")], axis=1)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key"), [(Kind.CARD, "CUSTOMER_ID"), (Kind.MERCHANT, "TERMINAL_ID")])
def test_features_of_three_hundred_entities_equal_the_published_ones(published: pd.DataFrame, kind: Kind, key: str) -> None:
    chosen = np.random.default_rng(2018).choice(published[key].unique(), 300, replace=False)
    slice_ = published[published[key].isin(chosen)]
    assert len(slice_) > 30_000
    assert slice_["TX_FRAUD"].sum() > 100
    differs = differing(ours(slice_, kind), slice_)
    in_tie = slice_.duplicated([key, "TX_DATETIME"], keep=False)
    assert not (differs & ~in_tie).any(), slice_[differs & ~in_tie].head()
    assert differs.sum() <= MAX_TIES


# --- the Handbook's definitions, on a series of our own --------------------------------------------------------------------------


def series() -> pd.DataFrame:
    """120 days of 25 customers and 15 terminals, by the second without ties, with frauds in runs at some terminals."""
    rng = np.random.default_rng(7)
    n = 6_000
    seconds = np.sort(rng.choice(120 * 86_400, n, replace=False))
    terminal = rng.integers(0, 15, n)
    days = seconds // 86_400
    compromised = (terminal % 3 == 0) & ((days + terminal) % 28 < 14)
    return pd.DataFrame(
        {
            "TRANSACTION_ID": np.arange(n),
            "TX_DATETIME": pd.Timestamp("2018-04-01") + pd.to_timedelta(seconds, unit="s"),
            "CUSTOMER_ID": rng.integers(0, 25, n),
            "TERMINAL_ID": terminal,
            "TX_AMOUNT": np.round(rng.lognormal(3.5, 0.8, n), 2),
            "TX_FRAUD": (compromised & (rng.random(n) < 0.7)).astype(int),
        }
    )


def by_the_handbook(frame: pd.DataFrame) -> pd.DataFrame:
    """The Handbook's three transformations (chapter 3, "Baseline feature transformation"), with its rolling windows."""
    out = pd.DataFrame(index=frame.index)
    out["TX_DURING_WEEKEND"] = (frame["TX_DATETIME"].dt.weekday >= 5).astype(int)
    out["TX_DURING_NIGHT"] = (frame["TX_DATETIME"].dt.hour <= 6).astype(int)
    for _, rows in frame.groupby("CUSTOMER_ID"):
        amounts = pd.Series(rows["TX_AMOUNT"].to_numpy(), index=rows["TX_DATETIME"])
        for days in (1, 7, 30):
            rolling = amounts.rolling(f"{days}d")
            out.loc[rows.index, f"CUSTOMER_ID_NB_TX_{days}DAY_WINDOW"] = rolling.count().to_numpy()
            out.loc[rows.index, f"CUSTOMER_ID_AVG_AMOUNT_{days}DAY_WINDOW"] = rolling.mean().to_numpy()
    for _, rows in frame.groupby("TERMINAL_ID"):
        frauds = pd.Series(rows["TX_FRAUD"].to_numpy(), index=rows["TX_DATETIME"])
        delay = frauds.rolling("7d")
        for days in (1, 7, 30):
            longer = frauds.rolling(f"{7 + days}d")
            count = longer.count() - delay.count()
            risk = ((longer.sum() - delay.sum()) / count).fillna(0)
            out.loc[rows.index, f"TERMINAL_ID_NB_TX_{days}DAY_WINDOW"] = count.to_numpy()
            out.loc[rows.index, f"TERMINAL_ID_RISK_{days}DAY_WINDOW"] = risk.to_numpy()
    return out


@pytest.mark.parametrize("kind", [Kind.CARD, Kind.MERCHANT])
def test_features_of_a_series_of_our_own_equal_the_handbooks_definitions(kind: Kind) -> None:
    frame = series()
    expected, got = by_the_handbook(frame), ours(frame, kind)
    assert set(got.columns) <= set(expected.columns)
    assert not differing(got, expected).any()
    if kind == Kind.MERCHANT:
        risks = expected["TERMINAL_ID_RISK_30DAY_WINDOW"]
        assert ((risks > 0) & (risks < 1)).sum() > 1_000, "the series should have risk to get wrong"


def test_all_fourteen_features_are_compared() -> None:
    assert len({**CALENDAR, **CUSTOMER, **TERMINAL}) == 14
    assert set(CALENDAR.values()) <= {entry.name for entry in EVENT_FEATURES}


def test_the_counted_features_of_the_handbook_are_in_the_default_catalogue() -> None:
    """So that training and rules have them without asking: 24h is what the Handbook calls one day."""
    default = {*kind_names(Kind.CARD), *kind_names(Kind.MERCHANT)}
    assert {name.replace("_1d", "_24h") if name.startswith("card_") else name for name in {**CUSTOMER, **TERMINAL}.values()} <= default


def test_a_label_that_came_a_second_late_would_be_noticed() -> None:
    """The comparison bites: with labels one second after the delay, some risk differs from the Handbook's."""
    frame = series()
    # transactions a whole number of days after frauds of their terminal, so that the label's instant matters
    fraud = frame[frame["TX_FRAUD"] == 1].head(40)
    echo = fraud.assign(
        TX_DATETIME=fraud["TX_DATETIME"] + pd.Timedelta(days=7), TX_FRAUD=0, TRANSACTION_ID=fraud["TRANSACTION_ID"] + 10_000
    )
    both = (
        pd.concat([frame, echo]).sort_values("TX_DATETIME", kind="stable").drop_duplicates("TX_DATETIME", keep=False).reset_index(drop=True)
    )
    expected = by_the_handbook(both)
    assert not differing(ours(both, Kind.MERCHANT), expected).any()
    late = both.assign(TX_DATETIME=both["TX_DATETIME"].where(both["TX_FRAUD"] == 0, both["TX_DATETIME"] + pd.Timedelta(seconds=1)))
    assert differing(ours(late, Kind.MERCHANT), expected)[both["TX_FRAUD"] == 0].any()
