"""Between the ledger and the pattern tests: decisions to the columns of a window, findings to alerts.

What is kept of a decision is a row of plain values (``row_of``), so that the stream can hold a window as compact bytes and a scan
of the ledger uses the same code.
"""

from __future__ import annotations

import json
import math
import zlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fraud.catalogue import CATALOGUE
from fraud.events import decision_id
from fraud.geo import MISSING
from fraud.patterns import NO_ENTITY, Entities, Finding, WindowEvents
from serving.records import Alert, Decision

__all__ = ["Row", "alert_of_finding", "pack_rows", "row_of", "to_window", "unpack_rows"]

# transaction, time, amount, currency, card, user, merchant, device, address, latitude, longitude, score, declined, the merchant's
# payments before and the seconds that they took
Row = tuple[str, int, int, str, str, str | None, str, str | None, str | None, int, int, float, bool, float | None, float | None]

_DAY_S = 86_400.0
_YOUNG_S = 3_600.0  # a merchant that was first seen within the hour has no rate of its own yet
_MERCHANT_COUNT, _MERCHANT_AGE = CATALOGUE.index["merchant_count_tx_24h"], CATALOGUE.index["merchant_age_seconds"]
_E6 = 1e6


def row_of(decision: Decision) -> Row:
    """What the pattern tests need of a decision."""
    tx = decision.transaction
    prior, prior_s = _merchant_rate(decision)
    located = tx.lat is not None and tx.lon is not None and (tx.lat, tx.lon) != (0.0, 0.0)
    return (
        tx.transaction_id,
        decision.event_time_ms,
        tx.amount_minor,
        tx.currency,
        tx.card_id,
        tx.user_id,
        tx.merchant_id,
        tx.device_id,
        tx.ip_hash,
        round(tx.lat * _E6) if located and tx.lat is not None else MISSING,
        round(tx.lon * _E6) if located and tx.lon is not None else MISSING,
        decision.score,
        tx.declined,
        prior,
        prior_s,
    )


def _merchant_rate(decision: Decision) -> tuple[float | None, float | None]:
    """Payments of the merchant before this one and the seconds that they took, as the decision's own features have it."""
    if decision.catalogue_version != CATALOGUE.version:
        return None, None
    count, age_s = float(decision.features[_MERCHANT_COUNT]), float(decision.features[_MERCHANT_AGE])
    if math.isnan(count) or math.isnan(age_s) or age_s < _YOUNG_S:
        return None, None
    return count - 1.0, min(age_s, _DAY_S)


def pack_rows(rows: Sequence[Row]) -> bytes:
    """Rows as bytes for state; no contract with anybody outside the job."""
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 1)


def unpack_rows(data: bytes) -> list[Row]:
    """Inverse of :func:`pack_rows`."""
    return [tuple(row) for row in json.loads(zlib.decompress(data))]


class _Names:
    """A column of names under construction."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._codes = array("q")

    def add(self, names: Iterable[str | None]) -> None:
        known = self._known
        self._codes.extend([NO_ENTITY if name is None else known.setdefault(name, len(known)) for name in names])

    def entities(self) -> Entities:
        return Entities(np.frombuffer(self._codes, dtype=np.int64), tuple(self._known))


def to_window(tenant_id: str, start_ms: int, end_ms: int, chunks: Iterable[Sequence[Row]]) -> WindowEvents:
    """Columns of a window from its rows, chunk after chunk: rows of a whole window as Python objects would take ten times the room."""
    ids: list[str] = []
    names = [_Names() for _ in range(6)]
    integers = [array("q") for _ in range(4)]
    floats = [array("d") for _ in range(4)]
    for chunk in chunks:
        if not chunk:
            continue
        tx, time, amount, currency, card, user, merchant, device, ip, lat, lon, score, declined, prior, prior_s = zip(*chunk, strict=True)
        ids.extend(tx)
        for column, values in zip(names, (currency, card, user, merchant, device, ip), strict=True):
            column.add(values)
        for numbers, integer in zip(integers, (time, amount, lat, lon), strict=True):
            numbers.extend(integer)
        for reals, real in zip(floats, (score, declined, prior, prior_s), strict=True):
            reals.extend([math.nan if value is None else value for value in real])
    time_ms, amount_minor, lat_e6, lon_e6 = (np.frombuffer(numbers, dtype=np.int64) for numbers in integers)
    scores, declines, priors, prior_seconds = (np.frombuffer(reals, dtype=np.float64) for reals in floats)
    currencies, cards, users, merchants, devices, addresses = (column.entities() for column in names)
    return WindowEvents(
        tenant_id=tenant_id,
        start_ms=start_ms,
        end_ms=end_ms,
        transaction_id=_objects(ids),
        time_ms=time_ms,
        amount_minor=amount_minor,
        currency=currencies,
        card=cards,
        user=users,
        merchant=merchants,
        device=devices,
        ip=addresses,
        lat_e6=lat_e6,
        lon_e6=lon_e6,
        score=scores,
        declined=declines != 0.0,
        merchant_prior=priors,
        merchant_prior_s=prior_seconds,
    )


def _objects(values: Sequence[str]) -> NDArray[np.object_]:
    column = np.empty(len(values), dtype=np.object_)
    column[:] = values
    return column


def alert_of_finding(finding: Finding, events: WindowEvents) -> Alert:
    """The alert of a finding: its newest risky event stands for it, the text names what was measured and some transactions."""
    at = finding.stands_for
    card, user = events.card.names[events.card.codes[at]], int(events.user.codes[at])
    transaction_id = str(events.transaction_id[at])
    located = bool(events.located[at])
    measured = ", ".join(f"{name} {value:.6g}" for name, value in finding.evidence.items())
    what = f"{finding.kind} of {finding.entity_kind} {finding.entity} within {(finding.end_ms - finding.start_ms) / 1000:g} s"
    return Alert(
        alert_id=finding.finding_id,
        decision_id=decision_id(finding.tenant_id, transaction_id),
        tenant_id=finding.tenant_id,
        transaction_id=transaction_id,
        card_id=card,
        user_id=None if user == NO_ENTITY else events.user.names[user],
        reason=f"PATTERN_{finding.kind.upper().replace('.', '_')}",
        severity=finding.severity,
        event_time_ms=int(events.time_ms[at]),
        details=f"{what} from {finding.start_ms}: {measured}; transactions {', '.join(finding.transaction_ids)}",
        lat=int(events.lat_e6[at]) / _E6 if located else None,
        lon=int(events.lon_e6[at]) / _E6 if located else None,
        score=None,
        outcome=None,
        source="cold",
    )
