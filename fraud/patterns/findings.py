"""What a test reports, how many false alarms it may raise, and how severe a finding is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

import numpy as np

from fraud.patterns.tails import binomial_tail
from fraud.patterns.window import Bools, Groups, Ints, WindowEvents

__all__ = ["HETEROGENEITY", "KINDS", "Finding", "Limits", "Scene"]

KINDS = (
    "frequency.card",
    "frequency.user",
    "frequency.device",
    "frequency.ip",
    "frequency.merchant",
    "frequency.card_testing",
    "geographic.cluster",
    "temporal.regular",
    "temporal.night_burst",
    "coordinated.device",
    "coordinated.ip",
    "coordinated.amount",
)
# A shop, a district or a network that is three times as risky as the tenant's rest is no news, nor is one that makes the day's
# turnover in eight hours: only what is beyond that is held against it.
HETEROGENEITY = 3.0
_SEVERITIES = ("low", "medium", "high", "critical")
_DAY_S = 86_400.0
_TILTED = math.log(1e-3)


@dataclass(frozen=True, slots=True)
class Limits:
    """How sure a test must be.

    ``false_alarms_per_day`` is the budget of one tenant over all tests: it is shared out to the windows of a day, the kinds of
    finding and, within a window, all entities that were tested (Bonferroni), so that it does not grow with the traffic.
    ``high_risk`` is the score from which an event counts as risky: the hot path's line for DENY.
    """

    false_alarms_per_day: float = 0.1
    high_risk: float = 0.7
    radius_km: float = 10.0  # a shopping district; a city has several
    min_cards: int = 5  # a family shares a device, an address and a favourite shop
    many_cards: int = 10
    reported_ids: int = 10

    def log_level(self, window_s: float, tests: int) -> float:
        """The log-probability below which one of ``tests`` tests of a kind is reported."""
        return math.log(self.false_alarms_per_day * window_s / _DAY_S / len(KINDS) / max(tests, 1))


@dataclass(frozen=True)
class Finding:
    """One pattern: ``entity`` is of ``entity_kind``; ``log_p`` how improbable it is in honest traffic; ``events`` by index, in time.

    ``evidence`` holds what was measured.  ``stands_for`` is the index of the newest risky event, else of the newest; the risky
    ones come first in ``transaction_ids``, too, since honest payments may share a shop with the attack.
    """

    kind: str
    entity_kind: str
    entity: str
    tenant_id: str
    start_ms: int
    end_ms: int
    log_p: float
    severity: str
    events: Ints = field(repr=False)
    stands_for: int
    transaction_ids: tuple[str, ...] = field(repr=False)
    evidence: Mapping[str, float]

    @cached_property
    def finding_id(self) -> str:
        """Identity: the same pattern of the same window is the same finding, however often it is found."""
        about = (self.tenant_id, self.kind, self.entity_kind, self.entity, str(self.start_ms), str(self.end_ms))
        digest = sha256("\0".join(about).encode()).hexdigest()
        return f"alert-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


class Scene:
    """A window in canonical order with what every test needs of it."""

    def __init__(self, events: WindowEvents, limits: Limits) -> None:
        self.events = events
        self.limits = limits
        self._groups: dict[str, Groups] = {}
        self.risky: Bools = events.declined | (events.score >= limits.high_risk)

    def groups(self, name: str) -> Groups:
        """The events of each entity of a kind: ``card``, ``user``, ``merchant``, ``device`` or ``ip``."""
        if name not in self._groups:
            self._groups[name] = Groups(getattr(self.events, name))
        return self._groups[name]

    def level(self, tests: int) -> float:
        """See :meth:`Limits.log_level`."""
        return self.limits.log_level(self.events.seconds, tests)

    def share_elsewhere(self, marked: Bools, members: Ints) -> float:
        """What share of the events outside of ``members`` is marked, at most three times over, as a chance for a binomial."""
        outside = int(marked.sum()) - int(marked[members].sum())
        # one more success and failure than seen (Laplace): what little traffic says is no certainty
        share = (outside + 1) / (len(marked) - len(members) + 2)
        return min(0.5, HETEROGENEITY * share)

    def is_tilted(self, members: Ints) -> bool:
        """Whether these events are riskier than the tenant's rest: declined, or scored as a denial, more often than 3 to 1."""
        count = int(self.risky[members].sum())
        return binomial_tail(count, len(members), self.share_elsewhere(self.risky, members)) <= _TILTED

    def finding(self, kind: str, entity_kind: str, entity: str, members: Ints, log_p: float, **evidence: float) -> Finding:
        """Describe a finding.

        Severity is a step up from low for each of: ten cards or more; at least half of the payments went through; riskier than
        the tenant's rest.
        """
        events, limits = self.events, self.limits
        cards = len(np.unique(events.card.codes[members]))
        declined = int(events.declined[members].sum())
        risky = self.risky[members]
        by_risk = members[np.argsort(~risky, kind="stable")]
        steps = (cards >= limits.many_cards) + (2 * declined <= len(members)) + self.is_tilted(members)
        return Finding(
            kind=kind,
            entity_kind=entity_kind,
            entity=entity,
            tenant_id=events.tenant_id,
            start_ms=events.start_ms,
            end_ms=events.end_ms,
            log_p=log_p,
            severity=_SEVERITIES[steps],
            events=members,
            stands_for=int(members[risky][-1] if risky.any() else members[-1]),
            transaction_ids=tuple(events.transaction_id[by_risk[: limits.reported_ids]].tolist()),
            evidence={
                "events": len(members),
                "cards": cards,
                "declined": declined,
                "high_risk": int((events.score[members] >= limits.high_risk).sum()),
                **evidence,
            },
        )
