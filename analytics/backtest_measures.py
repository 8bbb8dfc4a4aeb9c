"""What a change of rules would have meant: shares with their intervals, money by currency, and what nobody can know.

**Truth** is :mod:`training.truth`'s.

**Positive.**  A decision is *stopped* when its outcome is CHALLENGE or DENY.

**Intervals** are Wilson's (1927) of 95 %: they stay within 0 and 1 and hold for few events.  They say how much chance there is in
counts of this size, and nothing of labels that are still to come.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics.shares import Share, share
from training.truth import FRAUD, GOOD, UNKNOWN, Truth

__all__ = [
    "Band",
    "Counts",
    "Measures",
    "Money",
    "Unlabelled",
    "counts_of",
    "estimate_unlabelled",
    "measure",
    "money_of",
]

_BANDS = 10
_FEWEST_LABELLED = 30  # a band with fewer says too little of itself

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many events of each truth."""

    events: int
    fraud: int
    good: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Measures:
    """How well a set stops fraud: of what it stops, how much is fraud; of the fraud, how much it stops; of the good, how much."""

    stopped: Counts
    passed: Counts
    precision: Share
    recall: Share
    false_positive_rate: Share


@dataclass(frozen=True, slots=True)
class Money:
    """Amounts of one currency in its minor units."""

    currency: str
    fraud_minor: int
    good_minor: int
    unknown_minor: int


@dataclass(frozen=True, slots=True)
class Band:
    """Unlabelled events of one band of the model's score, and the fraud rate among labelled ones that were not stopped or were looked at.

    ``rate`` comes from ``labelled`` events of the band, or, where these are fewer than thirty, from the model itself (``from_model``).
    """

    low: float
    high: float
    events: int
    labelled: int
    rate: float
    rate_low: float
    rate_high: float
    from_model: bool


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """An estimate of the fraud among events without a label: ``fraud`` of ``events``, surely between 0 and all of them."""

    events: int
    fraud: float
    fraud_low: float
    fraud_high: float
    from_model: int
    bands: tuple[Band, ...]


def counts_of(truth: Truth, mask: Mask) -> Counts:
    """How many events of a mask have each truth."""
    chosen = truth[mask]
    fraud, good = int((chosen == FRAUD).sum()), int((chosen == GOOD).sum())
    return Counts(len(chosen), fraud, good, len(chosen) - fraud - good)


def measure(truth: Truth, stopped: Mask) -> Measures:
    """Measure what a set stops, or what one rule fires on."""
    caught, passed = counts_of(truth, stopped), counts_of(truth, ~stopped)
    return Measures(
        caught,
        passed,
        precision=share(caught.fraud, caught.fraud + caught.good),
        recall=share(caught.fraud, caught.fraud + passed.fraud),
        false_positive_rate=share(caught.good, caught.good + passed.good),
    )


def money_of(frame: pl.DataFrame, truth: Truth, mask: Mask) -> tuple[Money, ...]:
    """Sums of ``transaction.amount_minor`` by currency and truth, exact; currencies by name."""
    chosen = pl.DataFrame(
        {
            "currency": frame["transaction.currency"].filter(pl.Series(mask)),
            "minor": frame["transaction.amount_minor"].filter(pl.Series(mask)).cast(pl.Int64),
            "truth": truth[mask],
        }
    )
    sums = chosen.group_by("currency").agg(
        *(pl.col("minor").filter(pl.col("truth") == value).sum().alias(name) for name, value in _TRUTHS.items())
    )
    return tuple(Money(*row) for row in sums.sort("currency").select("currency", *_TRUTHS).iter_rows())


_TRUTHS = {"fraud": FRAUD, "good": GOOD, "unknown": UNKNOWN}


def estimate_unlabelled(truth: Truth, model_score: NDArray[np.float64], mask: Mask) -> Unlabelled:
    """How much fraud there may be among the events of a mask that have no label.

    In each tenth of the model's score the unlabelled events are taken to be as often fraud as the labelled ones of the same tenth.
    That assumes that within a tenth being stopped had nothing to do with being fraud; where a rule stopped an event for what the model
    does not see, the true share is higher.  A tenth with fewer than thirty labelled events takes the mean of the model's own calibrated
    probabilities, between 0 and 1.  Events that the model did not score count as between 0 and 1 as well, with a mean of one half.
    """
    unlabelled = mask & (truth == UNKNOWN)
    scored = ~np.isnan(model_score)
    place = np.where(scored, np.minimum((np.where(scored, model_score, 0.0) * _BANDS).astype(np.int64), _BANDS - 1), -1)
    bands = []
    for band in range(-1, _BANDS):
        mine = unlabelled & (place == band)
        events = int(mine.sum())
        if not events:
            continue
        labelled = counts_of(truth, (truth != UNKNOWN) & (place == band)) if band >= 0 else Counts(0, 0, 0, 0)
        if labelled.events >= _FEWEST_LABELLED:
            found = share(labelled.fraud, labelled.events)
            rate, low, high = found.hits / found.of, found.low, found.high
        else:
            rate, low, high = float(model_score[mine].mean()) if band >= 0 else 0.5, 0.0, 1.0
        edges = (band / _BANDS, (band + 1) / _BANDS) if band >= 0 else (0.0, 1.0)
        bands.append(Band(*edges, events, labelled.events, rate, low, high, labelled.events < _FEWEST_LABELLED))
    return Unlabelled(
        events=sum(band.events for band in bands),
        fraud=sum(band.events * band.rate for band in bands),
        fraud_low=sum(band.events * band.rate_low for band in bands),
        fraud_high=sum(band.events * band.rate_high for band in bands),
        from_model=sum(band.events for band in bands if band.from_model),
        bands=tuple(bands),
    )
