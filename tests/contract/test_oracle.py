"""The oracle of the fault tests bites: clean on what the operators put out, and each anomaly planted in it is found by its name."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fraud.catalogue import CATALOGUE
from fraud.events import Label, Transaction
from fraud.rules import RuleSet
from generator.acks import Ack, AckLog, identity_of, read_acks
from infra.oracle import ANOMALIES, Evidence, Judge, Row, Verdict
from serving import ledger
from serving.codec import Codec
from tests.contract.pipeline import NO_RULES, Pipeline, record

START_MS = 1_700_000_000_000
TENANT = "fault-1"
BAD_OFFSET = 10_000


def _judge(codec: Codec) -> Judge:
    rules = RuleSet.from_json(NO_RULES, CATALOGUE.index)

    def no_model(sha256: str) -> None:
        raise AssertionError(sha256)

    return Judge(codec, {rules.hash: rules}, no_model)


class Run:
    """200 transactions of 20 cards with labels, one poison record and another tenant's traffic, decided by the real operators."""

    def __init__(self) -> None:
        rng = random.Random(4)
        pipeline = Pipeline(shards=2, seed=4)
        self.codec = pipeline.codec
        self.acks: list[Ack] = []
        sent: list[str] = []
        for i in range(200):
            tenant = TENANT if i % 10 else "somebody"
            card = f"card{rng.randrange(20)}"
            shard = zlib.crc32(card.encode()) % 2
            time_ms = START_MS + i * 60_000
            tx = Transaction(f"t{i}", tenant, card, f"m{rng.randrange(4)}", rng.randrange(100, 90_000), "USD", time_ms, user_id="u")
            batch = [record(pipeline.codec.encode_transaction(tx), card, partition=shard, offset=len(self.acks))]
            records: list[Transaction | Label] = [tx]
            if i % 7 == 0:
                label = Label(tx.transaction_id, tenant, card, tx.merchant_id, time_ms, time_ms + 5, True, "u")
                batch.append(record(pipeline.codec.encode_label(label), card, source="labels", partition=shard, offset=1_000 + i))
                records.append(label)
            for item, raw in zip(records, batch, strict=True):
                if tenant == TENANT:
                    sent.append(identity_of(item))
                    self.acks.append(Ack(len(self.acks), sent[-1], raw.source, raw.partition, raw.offset, 0.0))
            pipeline.send(shard, batch)
        pipeline.send(0, [record(b"\x9cpoison", "card", offset=BAD_OFFSET)])
        self.acks.append(Ack(len(self.acks), "", ledger.TRANSACTIONS, 0, BAD_OFFSET, 0.0))
        self.sent = sent
        self.rows: list[Row] = [(row.topic, zlib.crc32(row.key or b"") % 3, row.value) for row in pipeline.drain() if row.topic in TOPICS]

    def verdict(self) -> Verdict:
        return _judge(self.codec).judge(Evidence(TENANT, self.sent, self.acks), lambda: self.rows)

    def row(self, topic: str, number: int = 3) -> int:
        """Where the ``number``-th row of our tenant lies."""
        ours = [i for i, row in enumerate(self.rows) if row[0] == topic and TENANT.encode() in (row[2] or b"")]
        return ours[number]

    def rewrite(self, at: int, **changes: object) -> None:
        """Alter a committed decision."""
        topic, partition, value = self.rows[at]
        self.rows[at] = topic, partition, self.codec.encode_decision(replace(self.codec.decode_decision(value), **changes))  # type: ignore[arg-type]


TOPICS = (ledger.DECISIONS, ledger.LABELS_APPLIED, ledger.DEAD_LETTERS)


@pytest.fixture(scope="module")
def recorded() -> Run:
    return Run()


@pytest.fixture
def run(recorded: Run) -> Run:
    copy = object.__new__(Run)
    copy.codec, copy.acks, copy.sent, copy.rows = recorded.codec, list(recorded.acks), list(recorded.sent), list(recorded.rows)
    return copy


def test_what_the_operators_put_out_is_clean(run: Run) -> None:
    verdict = run.verdict()
    assert verdict.anomalies == dict.fromkeys(ANOMALIES, 0), verdict.examples
    assert (verdict.decided, verdict.dead_letters) == (180, 1)
    assert verdict.labels == sum(ack.topic == ledger.LABELS for ack in run.acks)


def _lose(run: Run) -> None:
    del run.rows[run.row(ledger.DECISIONS)]


def _lose_label(run: Run) -> None:
    del run.rows[run.row(ledger.LABELS_APPLIED)]


def _lose_letter(run: Run) -> None:
    run.rows = [row for row in run.rows if row[0] != ledger.DEAD_LETTERS]


def _repeat(run: Run) -> None:
    run.rows.append(run.rows[run.row(ledger.DECISIONS)])


def _repeat_letter(run: Run) -> None:
    run.rows += [row for row in run.rows if row[0] == ledger.DEAD_LETTERS]


def _invent(run: Run) -> None:
    run.sent.remove(run.codec.decode_decision(run.rows[run.row(ledger.DECISIONS)][2]).decision_id)


def _skip_a_number(run: Run) -> None:
    at = run.row(ledger.DECISIONS, -1)
    decision = run.codec.decode_decision(run.rows[at][2])
    run.rewrite(at, entities=[replace(position, seq=position.seq + (position.kind == "merchant")) for position in decision.entities])


def _alter_a_feature(run: Run) -> None:
    at = run.row(ledger.DECISIONS, 50)
    features = run.codec.decode_decision(run.rows[at][2]).features.copy()
    features[CATALOGUE.index["card_count_tx_1h"]] += 1.0
    run.rewrite(at, features=features)


def _alter_the_score(run: Run) -> None:
    run.rewrite(run.row(ledger.DECISIONS, 50), score=0.123)


def _alter_the_outcome(run: Run) -> None:
    at = run.row(ledger.DECISIONS, 50)
    other = "ALLOW" if run.codec.decode_decision(run.rows[at][2]).outcome == "DENY" else "DENY"
    run.rewrite(at, outcome=other)


def _swap_two_of_a_card(run: Run) -> None:
    ours = [run.row(ledger.DECISIONS, i) for i in range(100)]
    cards = [run.codec.decode_decision(run.rows[at][2]).transaction.card_id for at in ours]
    one, other = next((a, b) for a in range(100) for b in range(a + 1, 100) if cards[a] == cards[b])
    run.rows[ours[one]], run.rows[ours[other]] = run.rows[ours[other]], run.rows[ours[one]]


def _overtake(run: Run) -> None:
    """The card's log is in order, but the sender had sent the two the other way round."""
    first = [run.codec.decode_decision(run.rows[run.row(ledger.DECISIONS, i)][2]) for i in range(100)]
    one, other = next((a, b) for a in first for b in first if a is not b and a.transaction.card_id == b.transaction.card_id)
    at = {ack.identity: i for i, ack in enumerate(run.acks)}
    a, b = at[one.decision_id], at[other.decision_id]
    run.acks[a], run.acks[b] = run.acks[a]._replace(number=b), run.acks[b]._replace(number=a)


@pytest.mark.parametrize(
    ("plant", "found"),
    [
        (_lose, {"lost", "gap", "diff"}),
        (_lose_label, {"lost", "gap", "diff"}),
        (_lose_letter, {"lost"}),
        (_repeat, {"duplicate"}),
        (_repeat_letter, {"duplicate"}),
        (_invent, {"phantom"}),
        (_skip_a_number, {"gap"}),
        (_alter_a_feature, {"diff"}),
        (_alter_the_score, {"diff"}),
        (_alter_the_outcome, {"diff"}),
        (_swap_two_of_a_card, {"inversion"}),
        (_overtake, {"inversion"}),
    ],
)
def test_a_planted_anomaly_is_found_by_its_name(run: Run, plant: Callable[[Run], None], found: set[str]) -> None:
    """A hole in a log may also change what follows it; nothing else may be blamed."""
    plant(run)
    blamed = {name for name, count in run.verdict().anomalies.items() if count}
    assert blamed
    assert blamed <= found
    assert next(iter(sorted(found & {"lost", "duplicate", "phantom"} or found))) in blamed


def test_a_torn_line_of_the_log_of_acknowledgements_is_none(tmp_path: Path) -> None:
    path = tmp_path / "acks.jsonl"
    with AckLog(path) as log:
        log.write(Ack(0, "dec-1", "transactions", 1, 7, 5.0))
        log.write(Ack(1, "dec-1", "transactions", 1, 8, 9.0))
    with path.open("a") as file:
        file.write('[2, "dec-2", "transac')
    assert list(read_acks(path)) == [Ack(0, "dec-1", "transactions", 1, 7, 5.0), Ack(1, "dec-1", "transactions", 1, 8, 9.0)]
    assert log.acked_ms == {"dec-1": 5.0}
