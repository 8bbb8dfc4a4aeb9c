"""Every feature by name: what it is, its unit, what "missing" means, and how the kernel computes it.

One entry a feature, ``{entity}_{aggregate}_{field}_{window}``.  The order of the entries is the order of the feature vector
everywhere: in a decision, in the training set, in the online store's view.  :meth:`Catalogue.of` builds a catalogue over other
windows by the same grammar, which is how a rule may ask for a window that nobody ever computed (``fraud.extra``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.currency import RATES_VERSION
from fraud.events import KINDS, Kind

__all__ = ["CATALOGUE", "EVENT_FEATURES", "Catalogue", "Entry", "UnknownFeature", "check_feature", "looks_like_feature"]

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
# Events this much older than the newest one of their entity still find every neighbour that their windows need.
LATENESS_MS = DAY_MS
LIFETIME_MS = 90 * DAY_MS
PERSON_RETENTION_MS = 30 * DAY_MS + LATENESS_MS
MERCHANT_RETENTION_MS = 37 * DAY_MS + LATENESS_MS
SHARED_RETENTION_MS = 7 * DAY_MS + LATENESS_MS
HEAD_CAP = 512
BUCKET_MS = HOUR_MS
SEEN_CAP = 64


class UnknownFeature(ValueError):
    """A name that the grammar does not know."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One feature: ``unit`` of the value, ``missing`` says when it is NaN, ``bound`` what is not exact about it ("" = exact)."""

    name: str
    unit: str
    doc: str
    missing: str = "never"
    bound: str = ""
    dtype: str = "float64"
    default: float = float("nan")


_TX = "events"
_MINOR = "minor units of USD"
_RATIO = "ratio"
_FLAG = "0 or 1"
# Both bounds count events back from the entity's newest, so for a late event the ones after it count too.
_FOLDED = f"exact over the newest {HEAD_CAP // 2} events of the entity, else off by at most the content of one edge bucket of 1 h"
_HEAD_ONLY = f"exact over the newest {HEAD_CAP // 2} events of the entity, else a lower bound that leaves out older ones"

# Written by fraud.vector.event_features in this order.
EVENT_FEATURES: tuple[Entry, ...] = (
    Entry("amount", _MINOR, "amount in the base currency"),
    Entry("amount_usd", "USD", "amount in major units"),
    Entry("hour_of_day", "h UTC", "hour of the event, 0-23"),
    Entry("day_of_week", "day", "0 = Monday"),
    Entry("is_weekend", _FLAG, "Saturday or Sunday UTC"),
    Entry("is_night", _FLAG, "hour 0 to 6 UTC (the Handbook's definition)"),
    Entry("declined", _FLAG, "the authorisation was declined upstream"),
    Entry("card_not_present", _FLAG, "channel is remote", "no channel given"),
    Entry("merchant_mcc", "ISO 18245", "merchant category code", "not given"),
    Entry("card_age_days", "d", "age of the card", "not given"),
    Entry("country_mismatch", _FLAG, "IP country differs from card country", "either is unknown"),
    Entry("merchant_country_mismatch", _FLAG, "merchant country differs from card country", "either is unknown"),
    Entry("location_country_mismatch", _FLAG, "country of the transaction differs from card country", "either is unknown"),
    Entry("ip_billing_distance_km", "km", "from the IP's location to the billing address", "either is unknown"),
    Entry("lat", "degrees", "latitude of the transaction", "not given, or (0, 0)"),
    Entry("lon", "degrees", "longitude of the transaction", "not given, or (0, 0)"),
    Entry("home_distance_km", "km", "from the transaction to the billing address", "either is unknown"),
)


@dataclass(frozen=True, slots=True)
class _Aggregate:
    """Grammar of ``{aggregate}_{field}``: the kernel's code and what it needs."""

    code: int
    unit: str
    doc: str
    missing: str = "never"
    need: int = 0
    persons_only: bool = False
    bound: str = ""


_FIRST = "no earlier transaction in the window"
_WINDOWED: Mapping[str, _Aggregate] = {
    "count_tx": _Aggregate(k.A_COUNT, _TX, "transactions, this one included", bound=_FOLDED),
    "sum_amount": _Aggregate(k.A_SUM, _MINOR, "sum of amounts, this one included", bound=_FOLDED),
    "mean_amount": _Aggregate(k.A_MEAN, _MINOR, "mean amount, this one included", bound=_FOLDED),
    "min_amount": _Aggregate(k.A_MIN, _MINOR, "smallest amount", persons_only=True),
    "max_amount": _Aggregate(k.A_MAX, _MINOR, "largest amount", persons_only=True),
    "std_amount": _Aggregate(k.A_STD, _MINOR, "sample standard deviation of amounts", "fewer than two transactions", persons_only=True),
    "distinct_merchant": _Aggregate(k.A_DISTINCT_A, "merchants", "different merchants", need=k.NEED_DISTINCT, persons_only=True),
    "distinct_device": _Aggregate(k.A_DISTINCT_B, "devices", "different devices", need=k.NEED_DISTINCT, persons_only=True),
    "distinct_card": _Aggregate(k.A_DISTINCT_A, "cards", "different cards", need=k.NEED_DISTINCT, bound=_HEAD_ONLY),
    "distinct_user": _Aggregate(k.A_DISTINCT_B, "users", "different users", need=k.NEED_DISTINCT, bound=_HEAD_ONLY),
    "distinct_country": _Aggregate(k.A_DISTINCT_COUNTRY, "countries", "different countries", need=k.NEED_DISTINCT, persons_only=True),
    "distinct_mcc": _Aggregate(k.A_DISTINCT_MCC, "codes", "different merchant categories", need=k.NEED_DISTINCT, persons_only=True),
    "count_declined": _Aggregate(k.A_DECLINED, _TX, "declined transactions", bound=_HEAD_ONLY),
    "count_small": _Aggregate(k.A_SMALL, _TX, "transactions of at most 5.00 USD", bound=_HEAD_ONLY),
    "count_nearlimit": _Aggregate(k.A_NEARLIMIT, _TX, "transactions of 1,800.00 to 2,000.00 USD", persons_only=True),
    "zscore_amount": _Aggregate(
        k.A_ZSCORE,
        "standard deviations",
        "amount against the earlier ones",
        "fewer than two earlier, or all equal",
        persons_only=True,
    ),
    "ratio_mean_amount": _Aggregate(
        k.A_RATIO_MEAN, _RATIO, "amount over the mean of the earlier ones", f"{_FIRST}, or their mean is 0", bound=_FOLDED
    ),
    "ratio_median_amount": _Aggregate(
        k.A_RATIO_MEDIAN,
        _RATIO,
        "amount over the median of the earlier ones",
        f"{_FIRST}, or their median is 0",
        need=k.NEED_ORDER,
        persons_only=True,
    ),
    "ratio_p95_amount": _Aggregate(
        k.A_RATIO_P95,
        _RATIO,
        "amount over the 95th percentile (nearest rank) of the earlier ones",
        f"{_FIRST}, or that percentile is 0",
        need=k.NEED_ORDER,
        persons_only=True,
    ),
    "count_fraud": _Aggregate(k.A_FRAUD, _TX, "transactions of the window labelled fraud by now", bound=_HEAD_ONLY),
}
_DELAYED: Mapping[str, _Aggregate] = {
    "count": _Aggregate(k.A_DELAYED_COUNT, _TX, "transactions in (t - d - w, t - d]", bound=_FOLDED),
    "risk": _Aggregate(k.A_DELAYED_RISK, _RATIO, "share of those labelled fraud by now, 0 when there are none", bound=_FOLDED),
}
_WINDOWLESS: Mapping[str, _Aggregate] = {
    "seconds_since_previous": _Aggregate(
        k.A_SECONDS_SINCE_PREVIOUS, "s", "since the previous transaction", "none in 31 d", persons_only=True
    ),
    "km_from_previous": _Aggregate(k.A_KM, "km", "from the previous known position", "no position now or in 31 d", persons_only=True),
    "kmh_from_previous": _Aggregate(
        k.A_KMH, "km/h", "implied speed from there; at least 1 s is assumed", "no position now or in 31 d", persons_only=True
    ),
    "count_tx_total": _Aggregate(k.A_TOTAL_COUNT, _TX, "since it was first seen; restarts after 90 d of silence"),
    "mean_amount_total": _Aggregate(k.A_TOTAL_MEAN, _MINOR, "mean amount since it was first seen"),
    "first_seen_merchant": _Aggregate(
        k.A_FIRST_SEEN_A,
        _FLAG,
        "no earlier transaction with this merchant",
        bound=f"of those older than 31 d, {SEEN_CAP} are remembered",
        persons_only=True,
    ),
    "first_seen_device": _Aggregate(
        k.A_FIRST_SEEN_B, _FLAG, "no earlier transaction from this device in 31 d", "no device", persons_only=True
    ),
    "first_seen_country": _Aggregate(
        k.A_FIRST_SEEN_COUNTRY, _FLAG, "no earlier transaction in this country in 31 d", "no country", persons_only=True
    ),
    "age_seconds": _Aggregate(k.A_AGE_SECONDS, "s", "since it was first seen; restarts after 90 d of silence"),
}

_PERSON = (
    "count_tx_5m count_tx_1h count_tx_24h count_tx_7d count_tx_30d sum_amount_5m sum_amount_1h sum_amount_24h sum_amount_7d sum_amount_30d "
    "mean_amount_24h mean_amount_7d mean_amount_30d min_amount_24h max_amount_24h max_amount_30d std_amount_24h std_amount_30d "
    "distinct_merchant_1h distinct_merchant_24h distinct_merchant_30d distinct_country_24h distinct_country_7d distinct_mcc_24h "
    "distinct_device_24h distinct_device_7d count_declined_1h count_declined_24h count_small_1h count_small_24h count_nearlimit_24h "
    "count_nearlimit_7d zscore_amount_30d ratio_mean_amount_30d ratio_median_amount_30d ratio_p95_amount_30d count_fraud_30d "
    "seconds_since_previous km_from_previous kmh_from_previous count_tx_total mean_amount_total first_seen_merchant first_seen_device "
    "first_seen_country"
)
_MERCHANT = (
    "count_tx_5m count_tx_1h count_tx_24h sum_amount_1h sum_amount_24h mean_amount_24h distinct_card_5m distinct_card_1h distinct_card_24h "
    "count_small_1h count_declined_1h ratio_mean_amount_24h age_seconds count_delayed7d_1d count_delayed7d_7d count_delayed7d_30d "
    "risk_delayed7d_1d risk_delayed7d_7d risk_delayed7d_30d"
)
_SHARED = "count_tx_5m count_tx_1h count_tx_24h sum_amount_24h distinct_card_1h distinct_card_24h distinct_user_24h count_declined_1h"
_DEFAULT: Mapping[Kind, str] = {
    Kind.CARD: _PERSON,
    Kind.USER: _PERSON,
    Kind.MERCHANT: _MERCHANT,
    Kind.DEVICE: _SHARED,
    Kind.IP: _SHARED,
}

# The names that the sources of the requirements use (S-FEA-06 to S-FEA-22).
_ALIASES: Mapping[str, str] = {
    "tx_count_24h": "user_count_tx_24h",
    "amount_sum_24h": "user_sum_amount_24h",
    "amount_sum_1h": "user_sum_amount_1h",
    "tx_count_total": "user_count_tx_total",
    "avg_amount_user": "user_mean_amount_total",
    "first_seen_merchant": "user_first_seen_merchant",
    "distance_km": "ip_billing_distance_km",
}

_UNIT_MS = {"s": 1_000, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_DURATION = r"([0-9]{1,9})([smhd])"
_WINDOWED_NAME = re.compile(rf"({'|'.join(KINDS)})_({'|'.join(_WINDOWED)})_{_DURATION}")
_DELAYED_NAME = re.compile(rf"({'|'.join(KINDS)})_({'|'.join(_DELAYED)})_delayed{_DURATION}_{_DURATION}")
_WINDOWLESS_NAME = re.compile(rf"({'|'.join(KINDS)})_({'|'.join(_WINDOWLESS)})")
_ENDS_WITH_WINDOW = re.compile(rf"([a-z0-9_]+?)(_{_DURATION})")


@dataclass(frozen=True, slots=True)
class _Feature:
    """A parsed name: ``window_ms`` and ``delay_ms`` are 0 where they do not apply."""

    name: str
    kind: Kind
    aggregate: _Aggregate
    window_ms: int = 0
    delay_ms: int = 0

    @property
    def entry(self) -> Entry:
        bound = "" if self.is_person and self.aggregate.bound in (_FOLDED, _HEAD_ONLY) else self.aggregate.bound
        return Entry(self.name, self.aggregate.unit, f"{self.kind.name.lower()}: {self.aggregate.doc}", self._missing(), bound)

    @property
    def is_person(self) -> bool:
        return self.kind in (Kind.CARD, Kind.USER)

    def _missing(self) -> str:
        absent = "" if self.kind in (Kind.CARD, Kind.MERCHANT) else f"no {self.kind.name.lower()} given"
        own = "" if self.aggregate.missing == "never" else self.aggregate.missing
        return "; ".join(part for part in (absent, own) if part) or "never"


def _duration_ms(number: str, unit: str) -> int:
    return int(number) * _UNIT_MS[unit]


def _retention_ms(kind: Kind) -> int:
    if kind == Kind.MERCHANT:
        return MERCHANT_RETENTION_MS
    return PERSON_RETENTION_MS if kind in (Kind.CARD, Kind.USER) else SHARED_RETENTION_MS


def _parse(name: str) -> _Feature:
    if match := _WINDOWED_NAME.fullmatch(name):
        entity, aggregate, number, unit = match.groups()
        feature = _Feature(name, Kind[entity.upper()], _WINDOWED[aggregate], _duration_ms(number, unit))
    elif match := _DELAYED_NAME.fullmatch(name):
        entity, aggregate, number, unit, delay_number, delay_unit = (*match.groups()[:2], *match.groups()[4:], *match.groups()[2:4])
        feature = _Feature(
            name, Kind[entity.upper()], _DELAYED[aggregate], _duration_ms(number, unit), _duration_ms(delay_number, delay_unit)
        )
    elif match := _WINDOWLESS_NAME.fullmatch(name):
        entity, aggregate = match.groups()
        feature = _Feature(name, Kind[entity.upper()], _WINDOWLESS[aggregate])
    else:
        raise UnknownFeature(f"{name}: not of the form entity_aggregate_field_window")
    return _checked(feature)


def looks_like_feature(name: str) -> bool:
    """Whether a name can only be meant as a feature of an entity: it ends with a window."""
    return _ENDS_WITH_WINDOW.fullmatch(name) is not None


def check_feature(name: str) -> None:
    """Raise UnknownFeature unless the grammar knows the name and the entity's log reaches far enough; says which name is nearest."""
    try:
        _parse(name)
    except UnknownFeature as unknown:
        nearest = _nearest(name)
        raise UnknownFeature(f"{unknown}; did you mean {nearest!r}?" if nearest else str(unknown)) from None


def _nearest(name: str) -> str | None:
    """The name most like this one that the grammar knows, with the same window if there is one."""
    match = _ENDS_WITH_WINDOW.fullmatch(name)
    stem, window = (match[1], match[2]) if match else (name, "")
    endings = [f"{aggregate}{window}" for aggregate in (_WINDOWED if match else _WINDOWLESS)]
    known = [f"{kind}_{ending}" for kind in KINDS for ending in endings]
    close = get_close_matches(stem + window, known, n=3, cutoff=0.7)
    return next((candidate for candidate in close if _is_known(candidate)), None)


def _is_known(name: str) -> bool:
    try:
        _parse(name)
    except UnknownFeature:
        return False
    return True


def _checked(feature: _Feature) -> _Feature:
    aggregate = feature.aggregate
    if aggregate.persons_only and not feature.is_person:
        raise UnknownFeature(f"{feature.name}: only card and user have this aggregate")
    if aggregate.code in (k.A_DISTINCT_A, k.A_DISTINCT_B) and aggregate.persons_only != feature.is_person:
        raise UnknownFeature(f"{feature.name}: a card's or user's log holds merchants and devices, the other logs cards and users")
    reach_ms = feature.window_ms + feature.delay_ms
    limit_ms = _retention_ms(feature.kind) - LATENESS_MS
    if reach_ms > limit_ms:
        raise UnknownFeature(
            f"{feature.name}: reaches {reach_ms / DAY_MS:g} d back, the {feature.kind.name.lower()} log keeps {limit_ms / DAY_MS:g} d"
        )
    if feature.window_ms == 0 and aggregate.code < k.A_SECONDS_SINCE_PREVIOUS:
        raise UnknownFeature(f"{feature.name}: the window is empty")
    if feature.delay_ms == 0 and aggregate.code in (k.A_DELAYED_COUNT, k.A_DELAYED_RISK):
        raise UnknownFeature(f"{feature.name}: a delay of 0 is no delay")
    return feature


class Catalogue:
    """An ordered set of features, and the kernel's plan for each kind of entity.

    Attributes:
        entries: in vector order; ``names`` and ``size`` follow.
        index: position by name, aliases included.
        slices: columns of each kind in the vector, by ``Kind``.
        plans: ``int64`` plan words of each kind, by ``Kind``.
    """

    def __init__(self, features: Mapping[Kind, Sequence[str]]) -> None:
        parsed = {kind: [_parse(f"{kind.name.lower()}_{name}") for name in features.get(kind, ())] for kind in Kind}
        self.entries: tuple[Entry, ...] = EVENT_FEATURES + tuple(f.entry for kind in Kind for f in parsed[kind])
        self.names: tuple[str, ...] = tuple(entry.name for entry in self.entries)
        if len(set(self.names)) != len(self.names):
            raise UnknownFeature("a feature is listed twice")
        self.size = len(self.names)
        self.index: dict[str, int] = {name: i for i, name in enumerate(self.names)}
        self.index |= {alias: self.index[name] for alias, name in _ALIASES.items() if name in self.index}
        self.plans: tuple[NDArray[np.int64], ...] = tuple(_plan(kind, parsed[kind]) for kind in Kind)
        self.slices: tuple[slice, ...] = tuple(_slices(parsed))

    @classmethod
    def of(cls, names: Iterable[str]) -> Catalogue:
        """Build the catalogue of the given entity features, in the default order of kinds; raises UnknownFeature."""
        by_kind: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        for name in names:
            feature = _parse(name)
            by_kind[feature.kind].append(name.split("_", 1)[1])
        return cls(by_kind)

    @cached_property
    def version(self) -> str:
        """Changes whenever a name, a place, the meaning or the bits of a feature change: first 16 hex digits of a SHA-256."""
        lines = [f"{e.name}|{e.unit}|{e.doc}|{e.missing}|{e.bound}" for e in self.entries]
        return sha256("\n".join([f"kernel {k.KERNEL_VERSION}, rates {RATES_VERSION}", *lines]).encode()).hexdigest()[:16]


def _slices(parsed: Mapping[Kind, Sequence[_Feature]]) -> Iterable[slice]:
    start = len(EVENT_FEATURES)
    for kind in Kind:
        yield slice(start, start + len(parsed[kind]))
        start += len(parsed[kind])


def _plan(kind: Kind, features: Sequence[_Feature]) -> NDArray[np.int64]:
    """Lay out the kernel's plan words: header, windows, their needs, (delay, window) pairs, (aggregate, index) a feature."""
    person = kind in (Kind.CARD, Kind.USER)
    windowed = [f for f in features if f.aggregate.code < k.A_WINDOWED]
    windows = sorted({f.window_ms for f in windowed})
    # Sets are only kept while a window that needs them is still open.
    distinct_reach = max((f.window_ms for f in windowed if f.aggregate.need & k.NEED_DISTINCT), default=0)
    needs = [
        (k.NEED_DISTINCT if w <= distinct_reach else 0)
        | (k.NEED_ORDER if any(f.window_ms == w and f.aggregate.need & k.NEED_ORDER for f in windowed) else 0)
        for w in windows
    ]
    delayed = sorted({(f.delay_ms, f.window_ms) for f in features if f.delay_ms})
    words = [0] * k.PLAN_HEADER
    words[k.P_KIND] = int(kind)
    words[k.P_RETENTION] = _retention_ms(kind)
    words[k.P_HEAD_CAP] = 0 if person else HEAD_CAP
    words[k.P_BUCKET] = BUCKET_MS
    words[k.P_SEEN_CAP] = SEEN_CAP if person else 0
    words[k.P_WINDOWS], words[k.P_DELAYED], words[k.P_FEATURES] = len(windows), len(delayed), len(features)
    words[k.P_LIFETIME] = LIFETIME_MS
    words[k.P_PERSON] = int(person)
    words += [*windows, *needs]
    words += [word for pair in delayed for word in pair]
    for feature in features:
        code = feature.aggregate.code
        index = 0
        if code < k.A_WINDOWED:
            index = windows.index(feature.window_ms)
        elif feature.delay_ms:
            index = delayed.index((feature.delay_ms, feature.window_ms))
        words += [code, index]
    return np.array(words, dtype=np.int64)


CATALOGUE = Catalogue({kind: names.split() for kind, names in _DEFAULT.items()})
