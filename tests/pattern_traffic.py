"""Windows of honest traffic from the generator, and attacks to plant in them, as rows of the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from fraud.geo import MISSING
from generator.generate import generate
from serving.pattern_events import Row
from serving.records import Decision
from tests import wire_samples

WINDOW_MS = 300_000
NOON_MS = 1_700_049_600_000  # 2023-11-15 12:00 UTC, a multiple of the window
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
PLANTED_MERCHANT = "planted-merchant"
_HISTORY_WINDOWS = 5  # a day's popularity of merchants is drawn from so many windows' worth of traffic


def honest_rows(
    seed: int,
    events: int,
    *,
    start_ms: int = NOON_MS,
    window_ms: int = WINDOW_MS,
    users: int = 20_000,
    merchants: int = 1_500,
) -> list[Row]:
    """Rows of a window without fraud; one in a hundred is scored as a denial, as by an imperfect model, anywhere."""
    rng = np.random.default_rng((seed, 99))
    world = {"seed": seed, "fraud_rate": 0.0, "users": users, "merchants": merchants}
    frame = generate(events, start_ms=start_ms, duration_ms=window_ms, **world)
    before = generate(_HISTORY_WINDOWS * events, start_ms=start_ms - DAY_MS, duration_ms=DAY_MS, **world)
    prior = Counter(before["merchant_id"].to_list())
    score = np.where(rng.random(events) < 0.01, rng.uniform(0.7, 1.0, events), 0.69 * rng.beta(0.5, 8.0, events))
    seconds = _HISTORY_WINDOWS * window_ms / 1000
    return [
        (
            record["transaction_id"],
            record["event_time_ms"],
            record["amount_minor"],
            record["currency"],
            record["card_id"],
            record["user_id"],
            record["merchant_id"],
            record["device_id"],
            record["ip_address"],
            MISSING if record["lat"] is None else round(record["lat"] * 1e6),
            MISSING if record["lon"] is None else round(record["lon"] * 1e6),
            float(score[number]),
            record["declined"],
            float(prior[record["merchant_id"]]) if record["merchant_id"] in prior else None,
            seconds if record["merchant_id"] in prior else None,
        )
        for number, record in enumerate(frame.select(_COLUMNS).iter_rows(named=True))
    ]


_COLUMNS = [
    "transaction_id",
    "event_time_ms",
    "amount_minor",
    "currency",
    "card_id",
    "user_id",
    "merchant_id",
    "device_id",
    "ip_address",
    "lat",
    "lon",
    "declined",
]


def shift(rows: Sequence[Row], by_ms: int) -> list[Row]:
    """The same rows at another time, under other identities."""
    return [(f"{row[0]}+{by_ms}", row[1] + by_ms, *row[2:]) for row in rows]  # type: ignore[misc]


class Plot:
    """Draws the rows of one attack: everything that the attack does not fix is ordinary."""

    def __init__(self, name: str, seed: int, size: int, start_ms: int) -> None:
        self.rng = np.random.default_rng((seed, size, *name.encode()))
        self.name, self.size, self.seed = name, size, seed
        self.times = np.sort(start_ms + self.rng.integers(1_000, WINDOW_MS - 1_000, size))

    def row(self, number: int, **fixed: object) -> Row:
        tag = f"{self.name}-{self.seed}-{number}"
        usual: dict[str, object] = {
            "transaction_id": f"tx-{tag}",
            "time_ms": int(self.times[number]),
            "amount": int(self.rng.integers(1_000, 20_000)),
            "currency": "USD",
            "card": f"card-{tag}",
            "user": f"user-{tag}",
            "merchant": f"shop-{tag}",
            "device": None,
            "ip": None,
            "lat": MISSING,
            "lon": MISSING,
            "score": 0.1,
            "declined": False,
            "prior": None,
            "prior_s": None,
        }
        return tuple((usual | fixed).values())  # type: ignore[return-value]


Planted = tuple[list[Row], str, str]  # rows, kind of finding, entity


def one_card(plot: Plot) -> Planted:
    return [plot.row(n, card="stolen", user="victim") for n in range(plot.size)], "frequency.card", "stolen"


def testing(plot: Plot) -> Planted:
    rows = [
        plot.row(n, merchant=PLANTED_MERCHANT, amount=int(plot.rng.integers(50, 200)), declined=bool(plot.rng.random() < 0.45))
        for n in range(plot.size)
    ]
    return rows, "frequency.card_testing", PLANTED_MERCHANT


def burst(plot: Plot) -> Planted:
    """A shop with two payments an hour is charged many."""
    rows = [plot.row(n, merchant=PLANTED_MERCHANT, prior=48.0, prior_s=86_400.0) for n in range(plot.size)]
    return rows, "frequency.merchant", PLANTED_MERCHANT


def night(plot: Plot) -> Planted:
    """The same where it is three in the morning when it is noon in Greenwich: at 135 degrees west."""
    place = {"lat": 60_000_000, "lon": -135_000_000}
    rows = [plot.row(n, merchant=PLANTED_MERCHANT, prior=480.0, prior_s=86_400.0, **place) for n in range(plot.size)]
    return rows, "temporal.night_burst", PLANTED_MERCHANT


def spot(plot: Plot) -> Planted:
    """Denials of many cards within three kilometres, at sea, across the border of two cells."""
    rows = [
        plot.row(
            n,
            score=0.9,
            lat=-30_200_000 + int(plot.rng.integers(-15_000, 15_000)),
            lon=-20_200_000 + int(plot.rng.integers(-15_000, 15_000)),
        )
        for n in range(plot.size)
    ]
    return rows, "geographic.cluster", ""


def machine(plot: Plot) -> Planted:
    """One card at equal intervals, give or take two percent."""
    step = (WINDOW_MS - 4_000) // plot.size
    start_ms = int(plot.times[0]) // WINDOW_MS * WINDOW_MS
    plot.times = start_ms + 2_000 + step * np.arange(plot.size) + plot.rng.integers(-step // 100, step // 100 + 1, plot.size)
    return [plot.row(n, card="robot", user="puppet") for n in range(plot.size)], "temporal.regular", "robot"


def farm(plot: Plot) -> Planted:
    return [plot.row(n, device="farm") for n in range(plot.size)], "coordinated.device", "farm"


def proxy(plot: Plot) -> Planted:
    rows = [plot.row(n, ip="proxy", declined=bool(plot.rng.random() < 0.4)) for n in range(plot.size)]
    return rows, "coordinated.ip", "proxy"


def price(plot: Plot) -> Planted:
    """One amount at one shop; the hot path would deny two thirds."""
    rows = [plot.row(n, merchant=PLANTED_MERCHANT, amount=49_99, score=0.9 if plot.rng.random() < 0.67 else 0.2) for n in range(plot.size)]
    return rows, "coordinated.amount", f"{PLANTED_MERCHANT}:4999 USD"


# each with a size at which it must be found
PLOTS: Mapping[str, tuple[Callable[[Plot], Planted], int]] = {
    "one_card": (one_card, 40),
    "testing": (testing, 50),
    "burst": (burst, 40),
    "night": (night, 40),
    "spot": (spot, 15),
    "machine": (machine, 10),
    "farm": (farm, 25),
    "proxy": (proxy, 40),
    "price": (price, 20),
}


def plant(name: str, seed: int, *, size: int | None = None, start_ms: int = NOON_MS) -> Planted:
    """The rows of an attack of a window, and what is to be found."""
    draw, usual = PLOTS[name]
    return draw(Plot(name, seed, size or usual, start_ms))


def decision_of(row: Row, tenant_id: str = "default") -> Decision:
    """A decision of the ledger from which a row is to be read."""
    tx_id, time_ms, amount, currency, card, user, merchant, device, ip, lat, lon, score, declined, prior, prior_s = row
    features = np.full(CATALOGUE.size, np.nan)
    if prior is not None and prior_s is not None:
        features[CATALOGUE.index["merchant_count_tx_24h"]] = prior + 1.0
        features[CATALOGUE.index["merchant_age_seconds"]] = prior_s
    transaction = wire_samples.transaction(
        transaction_id=tx_id,
        tenant_id=tenant_id,
        card_id=card,
        merchant_id=merchant,
        amount_minor=amount,
        currency=currency,
        event_time_ms=time_ms,
        user_id=user,
        device_id=device,
        ip_hash=ip,
        declined=declined,
        lat=None if lat == MISSING else lat / 1e6,
        lon=None if lon == MISSING else lon / 1e6,
    )
    return wire_samples.decision(
        decision_id=decision_id(tenant_id, tx_id),
        tenant_id=tenant_id,
        transaction_id=tx_id,
        event_time_ms=time_ms,
        outcome="DENY" if score >= 0.7 else "ALLOW",
        score=score,
        catalogue_version=CATALOGUE.version,
        features=features,
        transaction=transaction,
    )
