"""What the shadow lane has shown of a challenger: how it compares with the decisions that were made, by outcome, label, money and rule.

Counted are the payments behind which it was asked.  Those that a rollout let it decide are decisions like others, by its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analytics.reader import Reader
from analytics.shares import Share, share

__all__ = ["Asked", "Compared", "FiredBeside", "Scores", "ShadowReport", "UnknownChallenger", "challengers", "shadow_report"]


class UnknownChallenger(Exception):
    """Nothing of that kind and name was asked behind a decision of the tenant."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A challenger, and how its outcomes compare: ``stricter`` and ``looser`` are those that differ."""

    kind: str
    hash: str
    events: int
    agreed: int
    stricter: int
    looser: int
    first_event_ms: int
    last_event_ms: int

    @property
    def agreement(self) -> Share:
        """The share of equal outcomes."""
        return share(self.agreed, self.events)


@dataclass(frozen=True, slots=True)
class Compared:
    """Payments of one outcome that the challenger would have given another, or the same; money in USD."""

    live: str
    tried: str
    events: int
    fraud: int
    genuine: int
    usd: float
    fraud_usd: float
    genuine_usd: float

    @property
    def unlabelled(self) -> int:
        """Those of which nobody knows."""
        return self.events - self.fraud - self.genuine


@dataclass(frozen=True, slots=True)
class FiredBeside:
    """Firings of one rule: ``fraud`` and ``genuine`` are those of the challenger's."""

    rule_id: str
    fired: int
    fired_live: int
    fraud: int
    genuine: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Quantiles, 10, 50, 90 and 99 %, of the challenger's scores, of the decisions' and of how far they are apart."""

    tried: Sequence[float]
    live: Sequence[float]
    apart: Sequence[float]


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Everything that is known of one challenger."""

    asked: Asked
    outcomes: Sequence[Compared]
    rules: Sequence[FiredBeside]
    scores: Scores

    @property
    def changes(self) -> list[Compared]:
        """The outcomes that differ."""
        return [one for one in self.outcomes if one.live != one.tried]


def challengers(reader: Reader, tenant_id: str) -> list[Asked]:
    """What was tried on a tenant's payments, the newest first; raises Unavailable."""
    return reader.rows("shadow-challengers", Asked, {"tenant": tenant_id})


def shadow_report(reader: Reader, tenant_id: str, kind: str, start: str = "") -> ShadowReport:
    """Compare a challenger with the decisions of a tenant.

    Args:
        reader: of the stack's ClickHouse.
        tenant_id: whose payments.
        kind: ``rules`` or ``model``.
        start: of its hash; by default the challenger that was asked last.

    Raises:
        UnknownChallenger: none, or none that starts so.
        Unavailable: ClickHouse does not answer.
    """
    found = [one for one in challengers(reader, tenant_id) if one.kind == kind and one.hash.startswith(start)]
    if not found:
        raise UnknownChallenger(f"no {kind} {f'that start with {start!r} ' if start else ''}were asked behind a decision of {tenant_id}")
    if start and len(found) > 1:
        raise UnknownChallenger(f"{len(found)} challengers start with {start!r}")
    one = {"tenant": tenant_id, "challenger": found[0].hash}
    (scores,) = reader.rows("shadow-scores", Scores, one)
    return ShadowReport(
        found[0],
        reader.rows("shadow-outcomes", Compared, one),
        reader.rows("shadow-rules", FiredBeside, one),
        scores,
    )
