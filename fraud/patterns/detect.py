"""All families over one window, each pattern reported once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from fraud.patterns.coordinated import shared_amount, shared_device_or_address
from fraud.patterns.findings import Finding, Limits, Scene
from fraud.patterns.frequency import card_testing, merchants, persons_and_devices
from fraud.patterns.geographic import clusters
from fraud.patterns.temporal import night_bursts, regular_spacing
from fraud.patterns.window import WindowEvents

__all__ = ["detect"]

_FAMILIES: Sequence[Callable[[Scene], Iterator[Finding]]] = (
    persons_and_devices,
    merchants,
    card_testing,
    clusters,
    regular_spacing,
    night_bursts,
    shared_device_or_address,
    shared_amount,
)
_EXPLAINED = 0.8


def detect(events: WindowEvents, limits: Limits = Limits()) -> tuple[WindowEvents, list[Finding]]:  # noqa: B008 - frozen
    """Find the patterns of a window.

    An attack shows in many ways (the device, its cards, the shop): a finding of whose events four fifths are already reported by
    more improbable ones is left out.

    Returns:
        The events in the order that ``Finding.events`` refers to, and the findings, the most improbable first.
    """
    scene = Scene(events.in_order(), limits)
    found = [finding for family in _FAMILIES for finding in family(scene)] if len(events) else []
    found.sort(key=lambda finding: (finding.log_p, finding.kind, finding.entity))
    return scene.events, list(_unexplained(found, len(events)))


def _unexplained(found: Iterable[Finding], size: int) -> Iterator[Finding]:
    reported = np.zeros(size, dtype=np.bool_)
    for finding in found:
        if reported[finding.events].mean() < _EXPLAINED:
            reported[finding.events] = True
            yield finding
