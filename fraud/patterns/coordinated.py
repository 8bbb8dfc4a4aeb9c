"""Coordinated attacks: many cards that share a device, an address, or a merchant and an amount."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fraud.patterns.findings import Finding, Scene
from fraud.patterns.frequency import Crowd
from fraud.patterns.tails import binomial_tail
from fraud.patterns.window import NO_ENTITY

__all__ = ["shared_amount", "shared_device_or_address"]


def shared_device_or_address(scene: Scene) -> Iterator[Finding]:
    """Devices and addresses with far more cards than the tenant's most shared percent of them.

    Offices and carriers put many honest people behind one address, so an address must also be riskier than the tenant's rest.
    """
    events = scene.events
    for name, entities in (("device", events.device), ("ip", events.ip)):
        cards = entities.distinct(events.card)
        crowd = Crowd(cards)
        level = scene.level(crowd.size)
        for code in np.flatnonzero(cards >= scene.limits.min_cards).tolist():
            log_p = crowd.log_tail(int(cards[code]))
            if log_p <= level:
                members = scene.groups(name).members(code)
                if name == "device" or scene.is_tilted(members):
                    yield scene.finding(f"coordinated.{name}", name, entities.names[code], members, log_p, busy=crowd.busy)


def shared_amount(scene: Scene) -> Iterator[Finding]:
    """Groups of cards that pay one merchant the same amount and are riskier than the tenant's rest.

    Prices make equal amounts honest, so the number alone says nothing: what is tested is the share of declined and high-risk
    payments of each group.
    """
    events = scene.events
    known = (events.merchant.codes != NO_ENTITY) & (events.currency.codes != NO_ENTITY)
    index = np.flatnonzero(known)
    if len(index) == 0:
        return
    columns = (events.amount_minor[index], events.currency.codes[index], events.merchant.codes[index])
    order = np.lexsort(columns)  # stable: the events of a group stay in time
    differs = np.any([column[order][1:] != column[order][:-1] for column in columns], axis=0)
    starts = np.concatenate([[0], np.flatnonzero(differs) + 1, [len(index)]])
    sizes = np.diff(starts)
    level = scene.level(int((sizes >= scene.limits.min_cards).sum()))
    for number in np.flatnonzero(sizes >= scene.limits.min_cards).tolist():
        members = index[order[starts[number] : starts[number + 1]]]
        if len(np.unique(events.card.codes[members])) < scene.limits.min_cards:
            continue
        count = int(scene.risky[members].sum())
        chance = scene.share_elsewhere(scene.risky, members)
        log_p = binomial_tail(count, len(members), chance)
        if log_p <= level:
            first = members[0]
            merchant, currency = events.merchant.names[events.merchant.codes[first]], events.currency.names[events.currency.codes[first]]
            name = f"{merchant}:{events.amount_minor[first]} {currency}"
            yield scene.finding("coordinated.amount", "merchant_amount", name, members, log_p, risky=count, expected_share=chance)
