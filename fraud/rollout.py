"""Which cards a challenger decides for: a share of them, the same ones at every door, after a restart and in a replay.

Each challenger has a choice of its own, so that two that are tried at once do not always meet on the same cards.  Whoever grows the share
keeps the cards that are in it.
"""

from __future__ import annotations

from fraud.events import entity_key, hash64

__all__ = ["is_chosen"]

_PLACES = 10_000  # a hundredth of a percent each


def is_chosen(challenger: str, tenant_id: str, card_id: str, traffic_percentage: float) -> bool:
    """Whether a card is in the share of the challenger, which its hash names."""
    return hash64(f"{challenger}|{entity_key(tenant_id, card_id)}") % _PLACES < traffic_percentage * (_PLACES / 100)
