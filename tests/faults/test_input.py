"""F09 to F15: input that is wrong, wrong throughout, late, early, out of order, repeated, or silent."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from typing import Any

import polars as pl
import pytest
from confluent_kafka import Producer

from flink_jobs.refusals import DEFAULT_LIMITS
from flink_jobs.settings import JOB_NAME
from fraud.events import Transaction, decision_id
from generator.acks import Ack, read_acks
from generator.driver import Outgoing, interleave
from infra import nemesis, scoring_job
from infra.application import codec_of
from infra.campaign import Campaign
from infra.oracle import Verdict
from serving import ledger
from serving.clock import now_ms
from serving.codec import Codec
from tests.faults.world import CLEAN, World, figures

DAY_MS = 86_400_000
MARK = b"POISON-PAYLOAD-3141592653"
PATIENCE_S = 60.0
LIMIT_S = 30.0
ONE_KIND = 10  # every tenth bad record is of one kind


def _poison(codec: Codec, tenant: str, number: int) -> tuple[bytes, bytes | None, set[str]]:
    """(key, value, codes that the dead letter may have) of one of ten kinds of bad input."""

    def encoded(**changes: Any) -> bytes:
        return codec.encode_transaction(replaced(Transaction(f"bad-{number}", tenant, "card", "m", 100, "USD", now_ms()), **changes))

    good = encoded()
    kinds: list[tuple[bytes, bytes | None, set[str]]] = [
        (b"card", b"\x9c" + MARK, {"bad_magic"}),
        (b"card", good[: len(good) // 2], {"truncated"}),
        (b"card", b"\0\x7f\xff\xff\xf0" + good[5:], {"unknown_schema_id"}),
        (b"card", None, {"null_value"}),
        (b"card", MARK + bytes(1 << 20), {"too_large"}),
        (b"card", encoded(lat=float("nan"), lon=1.0), {"bad_latitude"}),
        (b"card", encoded(lat=999.0, lon=1.0), {"bad_latitude"}),
        (b"card", encoded(amount_minor=-1), {"bad_amount"}),
        (b"card", encoded(tenant_id=""), {"empty_id"}),
        (b"", good, {"empty_key"}),
    ]
    return kinds[number % len(kinds)]


class Poisoner:
    """Sends bad records and writes their acknowledgements into the campaign's log; they have a place and no identity."""

    def __init__(self, world: World, campaign: Campaign) -> None:
        self._campaign = campaign
        self._codec = codec_of(world.stack.plan)
        bootstrap = world.stack.addresses.bootstrap_servers
        self._producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 2_000_000})
        self.expected: list[set[str]] = []
        self._places: list[Ack] = []

    def send(self, number: int) -> None:
        key, value, codes = _poison(self._codec, self._campaign.tenant, number)
        self.expected.append(codes)
        self._producer.produce(ledger.TRANSACTIONS, value, key, on_delivery=self._acknowledged)
        self._producer.poll(0)

    def _acknowledged(self, error: object, message: Any) -> None:
        assert error is None
        self._places.append(Ack(0, "", ledger.TRANSACTIONS, message.partition(), message.offset(), time.time() * 1000.0))

    def finish(self) -> None:
        """Everything delivered; then, on the thread that owns the log, written down."""
        assert self._producer.flush(PATIENCE_S) == 0
        for ack in self._places:
            self._campaign.acks.write(ack)


def test_f09_poison_among_good_records(world: World) -> None:
    """Each bad record becomes one dead letter with its origin; the job does not restart, and no log repeats a payload."""
    before = scoring_job.state_of(world.stack.plan).job_id, world.restarts()
    with world.campaign("f09") as campaign:
        poisoner = Poisoner(world, campaign)
        amount = max(50, world.load.events // 60)

        def fault() -> None:
            for number in range(amount):
                poisoner.send(number)
                time.sleep(world.load.events / world.load.rate / amount / 2)
            poisoner.finish()

        verdict = world.under_fault(campaign, fault)
        letters = list(campaign.dead_letters())
        after = scoring_job.state_of(world.stack.plan).job_id, world.restarts()
        codes = Counter(letter.code for letter in letters)
        world.note(
            "F09", injected=f"{amount} poison records of 10 kinds", letters=len(letters), restarts=after[1] - before[1], **figures(verdict)
        )
        assert verdict.anomalies == CLEAN, verdict.examples
        assert len(letters) == verdict.dead_letters == amount
        assert {letter.origin_topic for letter in letters} == {ledger.TRANSACTIONS}
        assert len({(letter.origin_partition, letter.origin_offset) for letter in letters}) == amount
        unexpected = set(codes) - set().union(*poisoner.expected)
        assert not unexpected, codes
        assert after == before
        for log in world.stack.layout.logs.iterdir():
            assert MARK not in log.read_bytes(), f"a payload in {log.name}"


def _wait_for(state: str, world: World, patience_s: float) -> scoring_job.JobState:
    deadline = time.monotonic() + patience_s
    while (found := scoring_job.state_of(world.stack.plan)).state != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_f10_nothing_but_poison_stops_the_job_until_somebody_has_looked(world: World) -> None:
    """It stops by itself and says why; a start does not help; what is not read waits; and accepted, everything is accounted for."""
    poison = 1_500
    limits = {"refusals": asdict(DEFAULT_LIMITS)}
    world.stop_job()
    with world.campaign("f10") as campaign:
        try:
            world.start_job(core=limits)
            world.send(campaign, world.traffic(campaign.tenant, seconds=2.0))
            began_s = time.monotonic()
            _send_poison(world, campaign, poison)
            why = scoring_job.newest_failure(world.stack.plan, _wait_for("FAILED", world, LIMIT_S))
            stopped_s = round(time.monotonic() - began_s, 1)
            told = next(job for job in world.stack.status().jobs if job.name == JOB_NAME)
            world.send(campaign, world.traffic(campaign.tenant, seconds=2.0, seed=2))
            swallowed = len(list(campaign.dead_letters()))
            world.submit_job(core=limits)
            _wait_for("FAILED", world, PATIENCE_S)
            assert len(list(campaign.dead_letters())) == swallowed, "a start read on"
        finally:
            world.start_job()
        campaign.settle()
        verdict = campaign.verdict()
        letters = len(list(campaign.dead_letters()))
    world.note("F10", injected=f"{poison} poison records", stopped_s=stopped_s, limit_s=LIMIT_S, swallowed=swallowed, **figures(verdict))
    assert "were refused, the last as bad_magic" in why
    assert told.state == "FAILED"
    assert why in told.detail
    assert swallowed <= world.stack.plan.settings.shards * DEFAULT_LIMITS.max_run_records
    assert letters == verdict.dead_letters == poison
    assert verdict.anomalies == CLEAN, verdict.examples


def _send_poison(world: World, campaign: Campaign, amount: int) -> None:
    """Records of one kind and key, as a bad release of a producer makes them."""
    poisoner = Poisoner(world, campaign)
    for number in range(amount):
        poisoner.send(ONE_KIND * number)
    poisoner.finish()


@pytest.mark.slow
def test_f10_control_without_limits_the_dead_letters_swallow_everything(world: World) -> None:
    with world.campaign("f10-control") as campaign:
        _send_poison(world, campaign, 1_500)
        campaign.settle()
        letters = len(list(campaign.dead_letters()))
        world.note("F10 control", injected="1500 poison records, limits off", letters=letters)
        assert letters == 1_500
        assert scoring_job.state_of(world.stack.plan).state == "RUNNING"


def _repeated(items: list[Outgoing], rate: float, seed: int) -> list[Outgoing]:
    """Each item one to five times: at its own time, and again at random later times of the run."""
    chance = random.Random(seed)
    end_s = items[-1].due_s + 1.0
    copies = [Outgoing(item.card, item.record, chance.uniform(item.due_s, end_s)) for item in items for _ in range(chance.randrange(5))]
    everything = sorted([*items, *copies], key=lambda item: item.due_s)
    return [Outgoing(item.card, item.record, number / rate) for number, item in enumerate(everything)]


def _items(frame: pl.DataFrame, rate: float) -> list[Outgoing]:
    return list(interleave(frame, None, rate))


def test_f15_every_event_up_to_five_times(world: World) -> None:
    """One decision an event, and the counters are as if it had come once: numbers without gap, features as recomputed."""
    with world.campaign("f15") as campaign:
        frame = world.traffic(campaign.tenant, seconds=world.load.events / world.load.rate / 3)
        items = _repeated(_items(frame, world.load.rate), world.load.rate, seed=15)
        run = campaign.drive(iter(items), linger_s=2.0)
        campaign.settle()
        verdict = campaign.verdict()
        world.note("F15", injected=f"{run.sent} sends of {frame.height} events", **figures(verdict))
        assert verdict.anomalies == CLEAN, verdict.examples
        assert verdict.decided == frame.height < run.sent


@pytest.mark.job(variant="no dedup, no guard")
def test_f15_control_without_deduplication_there_are_duplicates(world: World) -> None:
    with world.campaign("f15-control") as campaign:
        frame = world.traffic(campaign.tenant, seconds=1.0)
        campaign.drive(iter(_repeated(_items(frame, world.load.rate), world.load.rate, seed=15)), linger_s=2.0)
        campaign.settle(quiet_s=20.0)
        verdict = campaign.verdict()
        world.note("F15 control", injected="deduplication removed", **figures(verdict))
        assert verdict.duplicate > 0


@pytest.mark.job(variant="no dedup, no guard")
def test_f09_control_without_the_guard_the_job_restarts_for_ever(world: World) -> None:
    with world.campaign("f09-control") as campaign:
        Poisoner(world, campaign).send(1)
        deadline = time.monotonic() + PATIENCE_S
        while (restarts := world.restarts()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        world.note("F09 control", injected="one poison record, guard removed", control=restarts)
    world.discard_stand_in()


@pytest.mark.slow
def test_f15_repetitions_across_a_restart(world: World) -> None:
    with world.campaign("f15-restart") as campaign:
        frame = world.traffic(campaign.tenant, seconds=3.0)
        campaign.drive(iter(_items(frame, world.load.rate)))
        _, moment_ms = nemesis.kill(world.stack.layout, "taskmanager-1")
        items = _repeated(_items(frame, world.load.rate), world.load.rate, seed=16)
        campaign.drive(iter(items), linger_s=15.0)
        campaign.settle()
        verdict = campaign.verdict()
        world.note("F15 restart", injected="every event again after a kill", **figures(verdict))
        assert moment_ms
        assert verdict.anomalies == CLEAN, verdict.examples
        assert verdict.decided == frame.height


@pytest.mark.slow
def test_f11_events_out_of_order_within_the_bound(world: World) -> None:
    """Shuffled by up to 5 s either way: nothing is late, and the features are those of the recorded order."""
    for seed in range(world.load.kills):
        with world.campaign("f11") as campaign:
            frame = world.traffic(campaign.tenant, seconds=10.0, seed=seed)
            chance = random.Random(seed)
            shuffled = frame.with_columns(
                pl.Series("place", [time_ms + chance.uniform(-5_000, 5_000) for time_ms in frame["event_time_ms"]])
            ).sort("place")
            world.send(campaign, shuffled.drop("place"))
            campaign.settle()
            verdict = campaign.verdict()
            world.note("F11", injected=f"shuffled by 5 s, seed {seed}", late=verdict.late, **figures(verdict))
            assert verdict.anomalies == CLEAN, verdict.examples
            assert verdict.late == 0


@pytest.mark.slow
@pytest.mark.job(core={"out_of_orderness_ms": 0})
def test_f11_control_with_no_bound_they_are_late(world: World) -> None:
    with world.campaign("f11-control") as campaign:
        frame = world.traffic(campaign.tenant, seconds=5.0)
        world.send(campaign, frame.sample(fraction=1.0, shuffle=True, seed=1))
        campaign.settle()
        verdict = campaign.verdict()
        world.note("F11 control", injected="shuffled, bound 0", late=verdict.late, **figures(verdict))
        assert verdict.late > 0
        assert verdict.anomalies == CLEAN, verdict.examples


@pytest.mark.slow
def test_f12_events_an_hour_late_are_decided_once_and_say_so(world: World) -> None:
    """Control: the events that are not late do not say so."""
    with world.campaign("f12") as campaign:
        on_time = world.traffic(campaign.tenant, seconds=10.0)
        world.send(campaign, on_time)
        late = world.traffic(campaign.tenant, seconds=1.0, seed=2).with_columns(pl.col("event_time_ms") - 3_600_000)
        world.send(campaign, late)
        campaign.settle()
        verdict = campaign.verdict()
        flagged = {decision.transaction_id for decision in campaign.decisions() if decision.late_event}
        world.note("F12", injected=f"{late.height} events of an hour ago", late=len(flagged), **figures(verdict))
        assert verdict.anomalies == CLEAN, verdict.examples
        assert flagged == set(late["transaction_id"].to_list())


@pytest.mark.slow
def test_f13_producers_a_day_ahead_and_a_day_behind_do_not_make_honest_events_late(world: World) -> None:
    """Tomorrow's are refused and hold nothing back; yesterday's are scored, and they alone are late."""
    with world.campaign("f13") as campaign:
        clocks = _wrong_clocks(world, campaign)
        world.note("F13", injected=f"{clocks.ahead} events of tomorrow, {len(clocks.behind)} of yesterday", **clocks.figures())
        assert clocks.codes == {"future_event": clocks.ahead}
        assert clocks.late == clocks.behind
        assert clocks.verdict.anomalies == CLEAN, clocks.verdict.examples


@pytest.mark.slow
@pytest.mark.job(variant="no clamp")
def test_f13_control_without_the_clamp_honest_events_are_late(world: World) -> None:
    with world.campaign("f13-control") as campaign:
        clocks = _wrong_clocks(world, campaign)
        world.note("F13 control", injected=f"{clocks.ahead} events of tomorrow, no clamp", **clocks.figures())
        assert clocks.codes == {}
        assert clocks.late - clocks.behind


@dataclass(frozen=True)
class _WrongClocks:
    """What came of it: ``ahead`` counts the events of tomorrow, ``behind`` and ``late`` are transaction ids."""

    ahead: int
    behind: set[str]
    late: set[str]
    codes: dict[str, int]
    verdict: Verdict

    def figures(self) -> dict[str, int]:
        return {"late": len(self.late), "wrongly_late": len(self.late - self.behind), **figures(self.verdict)}


def _wrong_clocks(world: World, campaign: Campaign) -> _WrongClocks:
    """Honest traffic, then a producer with a clock of tomorrow and one of yesterday, then honest traffic again."""

    def send_shifted(shift_ms: int, seed: int) -> list[str]:
        shifted = world.traffic(campaign.tenant, seconds=2.0, seed=seed).with_columns(pl.col("event_time_ms") + shift_ms)
        campaign.drive(interleave(shifted, None, world.load.rate), linger_s=2.0)
        return shifted["transaction_id"].to_list()

    world.send(campaign, world.traffic(campaign.tenant, seconds=3.0, seed=2))
    ahead, behind = send_shifted(DAY_MS, 3), send_shifted(-DAY_MS, 5)
    world.send(campaign, world.traffic(campaign.tenant, seconds=10.0, seed=4))
    campaign.settle(quiet_s=20.0)
    late = {decision.transaction_id for decision in campaign.decisions() if decision.late_event}
    codes = dict(Counter(letter.code for letter in campaign.dead_letters()))
    return _WrongClocks(len(ahead), set(behind), late, codes, campaign.verdict())


def _silent_partition(campaign: Campaign) -> set[str]:
    """All partitions speak, then one is silent while event time goes on; then events of 4 s ago come, and the silent one resumes.

    Returns the ids of the old events that were marked late; asserts that nothing of the resumed partition was.
    """

    def send(name: str, cards: list[str], seconds: float, age_ms: int = 0) -> set[str]:
        count = max(len(cards), round(seconds * 50))
        start_ms = now_ms() - age_ms
        step_ms = seconds * 1000 / count
        rows = [
            Transaction(f"{name}-{i}", campaign.tenant, cards[i % len(cards)], "m", 100, "USD", start_ms + round(i * step_ms))
            for i in range(count)
        ]
        campaign.drive(Outgoing((row.tenant_id, row.card_id), row, i * step_ms / 1000) for i, row in enumerate(rows))
        return {row.transaction_id for row in rows}

    cards = [f"card-{i}" for i in range(40)]
    send("first", cards, 2.0)
    campaign.acks.sync()
    partition_of = {ack.identity: ack.partition for ack in read_acks(campaign.acks.path)}
    of_card = {card: partition_of[decision_id(campaign.tenant, f"first-{i}")] for i, card in enumerate(cards)}
    silent = min(of_card.values())
    loud = [card for card in cards if of_card[card] != silent]
    quiet = [card for card in cards if of_card[card] == silent]
    assert quiet
    assert len(set(of_card.values())) == 4
    send("loud", loud, 8.0)
    old = send("old", loud, 0.5, age_ms=4_000)
    resumed = send("resumed", quiet, 0.5)
    campaign.settle()
    late = {decision.transaction_id for decision in campaign.decisions() if decision.late_event}
    assert not late & resumed, "wrongly late"
    return late & old


@pytest.mark.slow
@pytest.mark.job(core={"idle_ms": 3_000, "out_of_orderness_ms": 1_000})
def test_f14_a_silent_partition_does_not_hold_the_watermark(world: World) -> None:
    with world.campaign("f14") as campaign:
        late = _silent_partition(campaign)
        verdict = campaign.verdict()
        world.note("F14", injected="1 of 4 partitions silent", late_seen=len(late), **figures(verdict))
        assert late
        assert verdict.anomalies == CLEAN, verdict.examples


@pytest.mark.slow
@pytest.mark.job(core={"idle_ms": 10**12, "out_of_orderness_ms": 1_000})
def test_f14_control_without_idleness_the_watermark_is_stuck(world: World) -> None:
    with world.campaign("f14-control") as campaign:
        late = _silent_partition(campaign)
        world.note("F14 control", injected="1 of 4 partitions silent, no idleness", late_seen=len(late))
        assert not late
