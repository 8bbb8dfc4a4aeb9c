"""Logs of one entity for the tests of the kernel: drawn by hypothesis, or at length from a seed.

Times are chosen against the definitions: on the edges of windows and retention, one millisecond to either side, in ties, late by
exactly the day that stays exact and by more, and after silences that end a life.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraud import kernel as k
from fraud.catalogue import CATALOGUE, Catalogue
from fraud.events import Kind, Label, Transaction, hash64
from fraud.vector import Evaluator, event_row
from tests.contract.naive import DAY_MS, HOUR_MS, LIFETIME_MS, MINUTE_MS, RETENTION_MS

__all__ = ["START_MS", "Entity", "differences", "kind_names", "logs", "owned", "random_log", "transaction"]

START_MS = 1_735_689_600_000 + 17 * HOUR_MS + 123  # 2025-01-01, at no round hour
TENANT = "default"
OWN = {Kind.CARD: "card_id", Kind.USER: "user_id", Kind.MERCHANT: "merchant_id", Kind.DEVICE: "device_id", Kind.IP: "ip_hash"}

WINDOWS_MS = (5 * MINUTE_MS, HOUR_MS, DAY_MS, 7 * DAY_MS, 8 * DAY_MS, 14 * DAY_MS, 30 * DAY_MS, 37 * DAY_MS)
EDGES_MS = (*WINDOWS_MS, *sorted(set(RETENTION_MS.values())), LIFETIME_MS, 1_000)
AMOUNTS = (0, 1, 500, 501, 179_999, 180_000, 200_000, 200_001)  # the lines of "small" and "near the limit"
POSITIONS = ((48.8566, 2.3522), (48.8567, 2.3522), (-33.8688, 151.2093), (51.5074, -0.1278), (-17.7134, 178.065), (64.9, -179.99))
COUNTRIES = ("FR", "AU", "GB", "US", "AA", "ZZ")
MCCS = (0, 5411, 5812, 7995, 9999)


def transaction(t: int, amount_minor: int = 1_000, **columns: object) -> Transaction:
    """A transaction of card c, user u, merchant m at ``t`` ms; other columns by name."""
    tx = Transaction(f"t{t}", TENANT, "c", "m", amount_minor, "USD", t, user_id="u")
    return replace(tx, **columns)  # type: ignore[arg-type]


def owned(kind: Kind, tx: Transaction) -> Transaction:
    """The transaction as one of the entity of this kind that a test is about."""
    return replace(tx, **{OWN[kind]: "own"})  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Draw:
    """One operation before it is placed in its log."""

    anchor: int  # which transaction the time is relative to, from the newest
    offset_ms: int
    amount_minor: int
    counterparty: int
    other: int
    position: int
    country: int
    mcc: int
    declined: bool
    label: int  # 0 transaction, 1 fraud, 2 reversal, 3 a label of a transaction that was never here


def _offsets() -> st.SearchStrategy[int]:
    edges = [sign * (edge + nudge) for edge in (0, *EDGES_MS) for nudge in (-1, 0, 1) for sign in (1, -1)]
    backward = st.integers(-DAY_MS, 0)
    forward = st.integers(0, 3 * HOUR_MS)
    return st.one_of(forward, forward, st.sampled_from([e for e in edges if e > -2 * DAY_MS]), backward, st.sampled_from(edges))


_LABELS = (0, 0, 0, 0, 0, 0, 1, 1, 2, 3)
# how many values each small column of a draw has: one number stands for them all, since a draw a column is slow
_RADICES = (4, 6, 5, len(POSITIONS) + 1, len(COUNTRIES) + 1, len(MCCS) + 1, 2, len(_LABELS))


def _draw(facts: int, offset_ms: int, amount_minor: int) -> _Draw:
    digits = []
    for radix in reversed(_RADICES):
        facts, digit = divmod(facts, radix)
        digits.append(digit)
    label, declined, mcc, country, position, other, counterparty, anchor = digits
    return _Draw(
        anchor, offset_ms, amount_minor, counterparty, other - 1, position - 1, country - 1, mcc - 1, declined == 1, _LABELS[label]
    )


_DRAWS = st.builds(
    _draw,
    facts=st.integers(0, math.prod(_RADICES) - 1),
    offset_ms=_offsets(),
    amount_minor=st.one_of(st.sampled_from(AMOUNTS), st.integers(0, 300_000)),
)


def _place(kind: Kind, draw: _Draw, log: list[Transaction | Label], number: int) -> Transaction | Label:
    seen = sorted((entry for entry in log if isinstance(entry, Transaction)), key=lambda x: x.event_time_ms)
    anchor = seen[-1 - draw.anchor % len(seen)] if seen else None
    start = START_MS if anchor is None else anchor.event_time_ms
    if draw.label == 3 or (draw.label and anchor is None):
        return Label(f"elsewhere{draw.counterparty}", TENANT, "c", "m", START_MS + draw.counterparty, start, True, "u")
    if draw.label and anchor is not None:
        labelled = [entry.transaction_id for entry in log if isinstance(entry, Label) and entry.is_fraud]
        if draw.label == 2 and labelled:
            anchor = next((x for x in seen if x.transaction_id == labelled[-1 - draw.counterparty % len(labelled)]), anchor)
        return Label(anchor.transaction_id, TENANT, "c", "m", anchor.event_time_ms, start + 1, draw.label == 1, "u")
    person = kind in (Kind.CARD, Kind.USER)
    lat, lon = POSITIONS[draw.position] if draw.position >= 0 else (None, None)
    tx = Transaction(
        transaction_id=f"t{number}",
        tenant_id=TENANT,
        card_id="c" if person else f"c{draw.counterparty}",
        merchant_id=f"m{draw.counterparty}",
        amount_minor=draw.amount_minor,
        currency="USD",
        event_time_ms=start + draw.offset_ms,
        user_id="u" if person else (None if draw.other < 0 else f"u{draw.other}"),
        device_id=None if draw.other < 0 else f"d{draw.other}",
        lat=lat,
        lon=lon,
        country=COUNTRIES[draw.country] if draw.country >= 0 else None,
        merchant_mcc=MCCS[draw.mcc] if draw.mcc >= 0 else None,
        declined=draw.declined,
    )
    return owned(kind, tx)


def _placed(kind: Kind, draws: list[_Draw]) -> list[Transaction | Label]:
    log: list[Transaction | Label] = []
    for number, draw in enumerate(draws):
        log.append(_place(kind, draw, log, number))
    return log


def logs(kind: Kind, max_size: int = 120) -> st.SearchStrategy[list[Transaction | Label]]:
    """Logs of an entity of ``kind``, adversarial and shrinkable."""
    # hypothesis keeps lists near their least size, hence three of them
    sizes = [size for size in (1, 20, 60) if size <= max_size]
    return st.one_of(*(st.lists(_DRAWS, min_size=size, max_size=max_size) for size in sizes)).map(lambda draws: _placed(kind, draws))


def random_log(kind: Kind, size: int, seed: int, step_ms: int = HOUR_MS) -> list[Transaction | Label]:
    """A long log: mostly forward by up to ``step_ms``, with ties, window edges, late events and labels among it."""
    rng = random.Random(seed)
    edges = [sign * (edge + nudge) for edge in WINDOWS_MS[:4] for nudge in (-1, 0, 1) for sign in (1, -1)]

    def offset() -> int:
        p = rng.random()
        if p < 0.75:
            return rng.randrange(step_ms)
        return rng.choice((0, rng.choice(edges) % DAY_MS, -rng.randrange(min(DAY_MS, 40 * step_ms))))

    def draw() -> _Draw:
        amount = rng.choice(AMOUNTS) if rng.random() < 0.2 else round(rng.lognormvariate(8, 1.5))
        return _Draw(
            anchor=rng.choice((0, 0, 0, 1, 3)),
            offset_ms=offset(),
            amount_minor=amount,
            counterparty=rng.randrange(6) if rng.random() < 0.5 else rng.randrange(60),
            other=rng.randrange(-1, 30),
            position=rng.randrange(-1, len(POSITIONS)),
            country=rng.randrange(-1, len(COUNTRIES)),
            mcc=rng.randrange(-1, len(MCCS)),
            declined=rng.random() < 0.1,
            label=rng.choices((0, 1, 2), (90, 8, 2))[0],
        )

    return _placed(kind, [draw() for _ in range(size)])


def kind_names(kind: Kind, catalogue: Catalogue = CATALOGUE) -> tuple[str, ...]:
    """Names of a kind's features in the order in which the kernel writes them."""
    return catalogue.names[catalogue.slices[kind]]


class Entity:
    """One entity under the kernel: applies operations as the stream does."""

    def __init__(self, kind: Kind, catalogue: Catalogue = CATALOGUE) -> None:
        self.kind = kind
        self.names = kind_names(kind, catalogue)
        self.evaluator = Evaluator(catalogue)
        self.state = k.empty_state()

    def apply(self, entry: Transaction | Label) -> NDArray[np.float64] | None:
        """Apply an operation; features of a transaction, None for a label."""
        if isinstance(entry, Label):
            tx_hash = hash64(f"{entry.tenant_id}|{entry.transaction_id}")
            self.state = self.evaluator.label(self.kind, self.state, entry.transaction_time_ms, tx_hash, entry.is_fraud)
            return None
        out = np.zeros(len(self.names))
        self.state = self.evaluator.observe(self.kind, self.state, event_row(entry), out)
        return out

    def peek(self, tx: Transaction) -> NDArray[np.float64]:
        """Features of a transaction that is not applied."""
        out = np.zeros(len(self.names))
        self.evaluator.peek(self.kind, self.state, event_row(tx), out)
        return out


def differences(names: tuple[str, ...], expected: Iterator[int | float | None], actual: NDArray[np.float64]) -> list[str]:
    """Where the kernel and the oracle disagree: integers must be equal, floats to 1e-9 relative, missing must be NaN."""
    found = []
    for name, want, got in zip(names, expected, actual.tolist(), strict=True):
        if want is None:
            same = got != got  # noqa: PLR0124 - NaN
        elif isinstance(want, int):
            same = got == want
        else:
            # a distance of metres between six-decimal positions carries 1e-9 km of rounding, a speed 3,600 times that
            absolute = 1e-5 if "_kmh_" in name else 1e-8
            same = abs(got - want) <= max(1e-9 * abs(want), absolute)
        if not same:
            found.append(f"{name}: expected {want}, got {got}")
    return found
