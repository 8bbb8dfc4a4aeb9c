"""Labelled transactions from a seed: a batch, a history before a demonstration, its live minute, an endless stream.

The same arguments give the same bytes.  Nothing here reads a clock: the caller says when the traffic starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from generator.chance import key_of
from generator.frame import to_frame
from generator.geography import Floats
from generator.legitimate import legitimate_traffic
from generator.population import DAY_MS, HOUR_MS, Population, build_population
from generator.scenarios import SCENARIOS, SPECS, scenario_traffic
from generator.traffic import Traffic
from serving.history import LABEL_SCHEMA

__all__ = ["DEFAULT_DELAYS_H", "Summary", "demo_history", "demo_traffic", "generate", "labels", "stream", "summary"]

# A minute at 500/s is about one payment a person, as in a processor's real second, not a burst of a few hundred customers.
DEMO_USERS, DEMO_MERCHANTS = 40_000, 4_000
DEMO_FRAUD_RATE = 0.04
DEMO_SPAN_MS = 20_000  # frauds begin, peak and end within what a person watches

# Median and spread (standard deviation of the logarithm) of the time until a fraud is known, in hours.
DEFAULT_DELAYS_H: Mapping[str, tuple[float, float]] = {
    "card_testing": (8.0, 0.7),
    "account_takeover": (30.0, 0.7),
    "identity_theft": (120.0, 0.6),
    "merchant_fraud": (96.0, 0.6),
    "money_laundering": (168.0, 0.5),
    "phishing": (48.0, 0.7),
    "chargeback_fraud": (336.0, 0.4),
}
_SOURCES: Mapping[str, str] = {"account_takeover": "customer", "phishing": "customer", "money_laundering": "analyst"}
_OTHER_DELAY_H = (120.0, 0.6)


def generate(
    n: int,
    *,
    seed: int,
    start_ms: int,
    duration_ms: int = 30 * DAY_MS,
    fraud_rate: float = 0.02,
    users: int = 10_000,
    merchants: int = 2_000,
    scenarios: Sequence[str] = SCENARIOS,
    scenario_span_ms: int | None = None,
    with_instance: bool = False,
) -> pl.DataFrame:
    """Generate ``n`` labelled transactions in order of time, as a frame of ``serving.history.CANONICAL_SCHEMA``.

    Args:
        n: rows, fraudulent ones included.  A frame of 10 million rows takes about 6 GB: use :func:`stream` for more.
        seed: of the population and of all chance.
        start_ms: first instant, milliseconds UTC.
        duration_ms: all events fall into ``[start_ms, start_ms + duration_ms)``.
        fraud_rate: share of fraudulent rows, met exactly up to rounding.
        users: people; their ids are ``"1"`` to ``str(users)``.
        merchants: about so many.
        scenarios: which frauds occur; rows are shared out by ``ScenarioSpec.share``.
        scenario_span_ms: upper bound of the time that one fraud takes; ``None`` leaves minutes to days, as in life.
        with_instance: append ``scenario_instance`` (Int32), which numbers the frauds of a kind.

    Raises:
        ValueError: an argument is out of range.
    """
    population = build_population(seed, users, merchants)
    key = key_of(seed, "generate", n, start_ms, duration_ms)
    traffic = _draw(
        population,
        key,
        n,
        start_ms=start_ms,
        duration_ms=duration_ms,
        fraud_rate=fraud_rate,
        scenarios=scenarios,
        span_ms=scenario_span_ms,
    )
    return to_frame(population, traffic, key=key, batch_id=_batch_id(key), with_instance=with_instance)


def demo_traffic(
    duration_s: float = 60.0,
    rate: float = 500.0,
    *,
    seed: int,
    start_ms: int,
    users: int = DEMO_USERS,
    merchants: int = DEMO_MERCHANTS,
    fraud_rate: float = DEMO_FRAUD_RATE,
    with_instance: bool = False,
) -> pl.DataFrame:
    """Generate the live minute of a demonstration: ``duration_s * rate`` rows spread over ``duration_s`` from ``start_ms``.

    All seven scenarios occur, several instances of each where the minute has some 10,000 rows, each within 20 s.
    """
    population = build_population(seed, users, merchants)
    key = key_of(seed, "demo", start_ms, repr(duration_s), repr(rate))
    n, duration_ms = round(duration_s * rate), round(duration_s * 1000)
    traffic = _draw(population, key, n, start_ms=start_ms, duration_ms=duration_ms, fraud_rate=fraud_rate, span_ms=DEMO_SPAN_MS)
    return to_frame(population, traffic, key=key, batch_id=_batch_id(key), with_instance=with_instance)


def demo_history(
    rows: int = 150_000,
    *,
    seed: int,
    start_ms: int,
    days: int = 30,
    rate: float = 500.0,
    users: int = DEMO_USERS,
    merchants: int = DEMO_MERCHANTS,
    fraud_rate: float = DEMO_FRAUD_RATE,
    busy_share: float = 0.4,
    with_instance: bool = False,
) -> pl.DataFrame:
    """Generate what the population of :func:`demo_traffic` did in the days before ``start_ms``.

    Most rows are a quiet month with frauds at their natural pace.  A share of them are minutes as busy as the demonstration
    itself, with frauds as fast as there: a model that has only seen quiet months takes every busy minute for an attack.  The
    first of those minutes opens the history, when nothing is known of anyone yet, as on a fresh installation.

    Args:
        rows: of the whole history.
        seed: the demonstration's.
        start_ms: start of the demonstration; the history ends one hour before.
        days: length.
        rate: of the busy minutes, events/s.
        users: as in the demonstration, as are ``merchants``.
        merchants: see ``users``.
        fraud_rate: share of fraudulent rows.
        busy_share: share of the rows that are in busy minutes.
        with_instance: append ``scenario_instance``; numbers are unique within a kind.
    """
    population = build_population(seed, users, merchants)
    key = key_of(seed, "history", rows, start_ms, days)
    first_ms, length_ms = start_ms - days * DAY_MS, days * DAY_MS - 3_600_000
    busy_rows = round(rows * busy_share)
    minutes = max(1, round(busy_rows / (rate * 60))) if busy_rows else 0
    parts = [
        _draw(
            population,
            key_of(key, "quiet"),
            rows - busy_rows,
            start_ms=first_ms,
            duration_ms=length_ms,
            fraud_rate=fraud_rate,
        )
    ]
    for minute in range(minutes):
        n = busy_rows // minutes + (minute < busy_rows % minutes)
        parts.append(
            _draw(
                population,
                key_of(key, "busy", minute),
                n,
                start_ms=first_ms + length_ms * minute // minutes,
                duration_ms=max(1, round(n / rate * 1000)),
                fraud_rate=fraud_rate,
                span_ms=DEMO_SPAN_MS,
            )
        )
    traffic = Traffic.concatenate(_with_distinct_instances(parts)).in_order()
    return to_frame(population, traffic, key=key, batch_id=_batch_id(key), with_instance=with_instance)


def stream(
    *,
    seed: int,
    rate: float,
    start_ms: int,
    slice_s: float = 60.0,
    users: int = DEMO_USERS,
    merchants: int = DEMO_MERCHANTS,
    fraud_rate: float = DEMO_FRAUD_RATE,
    with_instance: bool = False,
) -> Iterator[pl.DataFrame]:
    """Yield frames of ``rate * slice_s`` rows without end, one slice of time after the other; the caller paces them.

    Frauds begin and end within a slice.
    """
    slice_ms = round(slice_s * 1000)
    number = 0
    while True:
        yield demo_traffic(
            slice_ms / 1000,
            rate,
            seed=seed,
            start_ms=start_ms + number * slice_ms,
            users=users,
            merchants=merchants,
            fraud_rate=fraud_rate,
            with_instance=with_instance,
        )
        number += 1


def labels(
    frame: pl.DataFrame,
    *,
    seed: int,
    delays_h: Mapping[str, tuple[float, float]] = DEFAULT_DELAYS_H,
    time_scale: float = 1.0,
    cleared_share: float = 0.0,
) -> pl.DataFrame:
    """When the fraud in a frame becomes known, as ``serving.history.LABEL_SCHEMA`` in order of that time.

    Args:
        frame: with ``is_fraud`` and ``scenario``.
        seed: of the delays.
        delays_h: scenario to median (hours) and standard deviation of the logarithm of its delay.
        time_scale: factor on every delay; a demonstration of a minute may use 1e-5.
        cleared_share: share of the legitimate rows that get the label "not fraud", as from an analyst.
    """
    rng = np.random.default_rng(key_of(seed, "labels"))
    spread, cleared = rng.standard_normal(frame.height), rng.random(frame.height) < cleared_share
    fraud = frame["is_fraud"].fill_null(value=False).to_numpy()
    median_h, sigma = _delays_of(frame["scenario"], delays_h)
    delay_ms = np.maximum(1, np.rint(median_h * np.exp(sigma * spread) * HOUR_MS * time_scale)).astype(np.int64)
    known = frame.with_columns(
        label_time_ms=frame["event_time_ms"] + pl.Series(delay_ms),
        is_fraud=pl.Series(fraud),
        source=pl.col("scenario").replace_strict(_SOURCES, default="chargeback"),
    ).filter(pl.Series(fraud | cleared))
    known = known.with_columns(source=pl.when("is_fraud").then("source").otherwise(pl.lit("analyst")))
    return known.rename({"event_time_ms": "transaction_time_ms"}).select(LABEL_SCHEMA.names()).sort("label_time_ms", maintain_order=True)


def _delays_of(scenario: pl.Series, delays_h: Mapping[str, tuple[float, float]]) -> tuple[Floats, Floats]:
    """Median and spread of the delay of each row; legitimate rows and unknown scenarios have the common one."""
    median, sigma = (
        scenario.replace_strict(
            {name: delay[part] for name, delay in delays_h.items()}, default=_OTHER_DELAY_H[part], return_dtype=pl.Float64
        )
        for part in (0, 1)
    )
    return median.fill_null(_OTHER_DELAY_H[0]).to_numpy(), sigma.fill_null(_OTHER_DELAY_H[1]).to_numpy()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a frame holds: ``scenarios`` counts rows by scenario, ``rows_per_s`` is over event time from first to last event."""

    rows: int
    fraud: int
    fraud_rate: float
    scenarios: Mapping[str, int]
    duration_s: float
    rows_per_s: float


def summary(frame: pl.DataFrame) -> Summary:
    """Count a frame of labelled transactions."""
    counts = frame["scenario"].drop_nulls().value_counts()
    rows, fraud = frame.height, int(frame["is_fraud"].sum())
    times = frame["event_time_ms"].to_numpy()
    duration_s = float(np.ptp(times)) / 1000 if rows else 0.0
    return Summary(
        rows=rows,
        fraud=fraud,
        fraud_rate=fraud / rows if rows else 0.0,
        scenarios=dict(sorted(zip(counts["scenario"], counts["count"], strict=True))),
        duration_s=duration_s,
        rows_per_s=rows / duration_s if duration_s else 0.0,
    )


def _draw(
    population: Population,
    key: int,
    n: int,
    *,
    start_ms: int,
    duration_ms: int,
    fraud_rate: float,
    scenarios: Sequence[str] = SCENARIOS,
    span_ms: int | None = None,
) -> Traffic:
    """Draw legitimate and fraudulent payments together, in order of time."""
    if n < 0 or duration_ms < 1 or not 0.0 <= fraud_rate <= 1.0:
        raise ValueError("n and duration_ms are positive and fraud_rate is between 0 and 1")
    unknown = sorted(set(scenarios) - set(SCENARIOS))
    if unknown:
        raise ValueError(f"unknown scenario {', '.join(unknown)}: one of {', '.join(SCENARIOS)}")
    quotas = _quotas(round(n * fraud_rate), scenarios)
    frauds = [
        scenario_traffic(population, name, quota, key=key_of(key, "fraud"), start_ms=start_ms, duration_ms=duration_ms, longest_ms=span_ms)
        for name, quota in quotas.items()
        if quota
    ]
    rng = np.random.default_rng(key_of(key, "legitimate"))
    legitimate = legitimate_traffic(population, rng, n - sum(map(len, frauds)), start_ms, duration_ms)
    return Traffic.concatenate([legitimate, *frauds]).in_order()


def _quotas(rows: int, scenarios: Sequence[str]) -> dict[str, int]:
    """Share out fraudulent rows by the scenarios' shares (largest remainders), in the order of ``SCENARIOS``."""
    names = [name for name in SCENARIOS if name in scenarios]
    if not names:
        return {}
    share = np.array([SPECS[name].share for name in names])
    exact = rows * share / share.sum()
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: rows - int(quota.sum())]] += 1
    return dict(zip(names, quota.tolist(), strict=True))


def _with_distinct_instances(parts: Sequence[Traffic]) -> list[Traffic]:
    """Number the frauds on from part to part."""
    first = 0
    for part in parts:
        last = int(part.instance.max(initial=-1))
        part.instance = np.where(part.instance < 0, -1, part.instance + first)
        first += last + 1
    return list(parts)


def _batch_id(key: int) -> str:
    return f"gen-{key:016x}"
