"""F26: what the running stream computes equals a naive computation from what was sent; the API's half comes with the API."""

from __future__ import annotations

import random
from collections import defaultdict
from copy import copy
from typing import Any

from fraud.catalogue import CATALOGUE
from fraud.currency import to_base_minor
from fraud.events import KINDS, Kind, Transaction, entities_of
from generator.driver import Outgoing
from infra.campaign import Campaign
from infra.scoring_job import ip_hash_key_file
from serving.clock import now_ms
from serving.enrich import Enricher
from serving.records import Decision
from tests.contract.logs import differences
from tests.contract.naive import Naive
from tests.faults.world import CLEAN, World, figures

WINDOW_MS = 300_000  # of card_count_tx_5m and others
NOBODYS_BUSINESS = ("ip_address",)


def _sent(world: World, tenant: str, cards: int) -> list[Transaction]:
    """Traffic of a few cards over the last half hour, with every card's every fifth event exactly one window after another one."""
    chance = random.Random(26)
    end_ms = now_ms()
    rows: list[Transaction] = []
    for i in range(world.load.events):
        time_ms = end_ms - 1_800_000 + i * 1_800_000 // world.load.events
        card = f"card-{chance.randrange(cards)}"
        mine = [row.event_time_ms for row in rows[-40 * cards :] if row.card_id == card]
        if mine and i % 5 == 0:
            time_ms = min(end_ms, chance.choice(mine) + WINDOW_MS)
        rows.append(
            Transaction(
                f"t{i}",
                tenant,
                card,
                f"m{chance.randrange(12)}",
                chance.randrange(100, 300_000),
                "USD",
                time_ms,
                user_id=f"u{card}",
                device_id=f"d{chance.randrange(20)}",
                ip_address=f"8.8.4.{chance.randrange(1, 33)}",  # few enough events each to stay within the exact head of a log
                merchant_mcc=5411,
                country=chance.choice(("AT", "US")),
                card_country="AT",
                declined=chance.random() < 0.1,
                lat=round(48.0 + chance.random(), 6),  # the kernel keeps millionths of a degree
                lon=16.0,
            )
        )
    return rows


def _naive_differences(decisions: list[Decision], sent: dict[str, Transaction], oracle: type[Naive]) -> list[str]:
    """Every entity feature of every decision, from first principles over what was sent, in the recorded order of each log."""
    found: list[str] = []
    logs: dict[tuple[Kind, str], list[tuple[int, Decision]]] = defaultdict(list)
    for decision in decisions:
        seqs = {(position.kind, position.key): position.seq for position in decision.entities}
        tx = sent[decision.transaction_id]
        for kind, key in entities_of(tx):
            logs[Kind(kind), key].append((seqs[KINDS[kind], key], decision))
    for (kind, _), entries in logs.items():
        entries.sort(key=lambda entry: entry[0])
        log: list[Transaction] = []
        names = CATALOGUE.names[CATALOGUE.slices[kind]]
        for _, decision in entries:
            tx = copy(sent[decision.transaction_id])
            tx.amount_minor = to_base_minor(tx.amount_minor, tx.currency)
            naive = oracle(kind, log, tx)
            values = decision.features[CATALOGUE.slices[kind]]
            found += [f"{decision.transaction_id}: {text}" for text in differences(names, map(naive.value, names), values)]
            log.append(tx)
    return found


class InclusiveStart(Naive):
    """Off by one at the edge of every window."""

    def in_window(self, event_time_ms: int, end_ms: int, window_ms: int) -> bool:
        return end_ms - window_ms <= event_time_ms <= end_ms


def _stream(world: World, campaign: Campaign) -> tuple[list[Decision], dict[str, Transaction]]:
    rows = _sent(world, campaign.tenant, cards=max(20, world.load.events // 40))
    campaign.drive(Outgoing((row.tenant_id, row.card_id), row, i / world.load.rate) for i, row in enumerate(rows))
    campaign.settle()
    enricher = Enricher(ip_hash_key_file(world.stack.layout).read_bytes())
    for row in rows:
        enricher.enrich(row)
    return list(campaign.decisions()), {row.transaction_id: row for row in rows}


def test_f26_the_stream_equals_a_naive_computation(world: World) -> None:
    """Bit for bit with the pure kernel (the oracle's ``diff``), and with first principles to the last digit that floats have.

    Control: a naive computation that is off by one at the edge of a window differs.
    """
    with world.campaign("f26") as campaign:
        decisions, sent = _stream(world, campaign)
        verdict = campaign.verdict()
        wrong = _naive_differences(decisions, sent, Naive)
        mutated = _naive_differences(decisions, sent, InclusiveStart)
        altered = [decision.transaction_id for decision in decisions if _altered(decision.transaction, sent[decision.transaction_id])]
        world.note(
            "F26 stream", injected="nothing", naive_differences=len(wrong), altered=len(altered), control=len(mutated), **figures(verdict)
        )
        assert verdict.anomalies == CLEAN, verdict.examples
        assert len(decisions) == len(sent)
        assert not altered
        assert not wrong, wrong[:5]
        assert mutated, "control: a mutated window edge"


def _altered(recorded: Any, sent: Any) -> bool:
    return any(getattr(recorded, name) != getattr(sent, name) for name in Transaction.__slots__ if name not in NOBODYS_BUSINESS)
