"""The scoring job on real servers: what comes in is decided exactly once, bad input is set aside, kills lose nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl
import pytest
import yaml
from confluent_kafka import Producer

from analytics.history import LedgerTopics
from fraud.events import Kind, Transaction
from fraud.state import decode_state, state_seq
from generator.driver import Driver, Run, interleave
from generator.generate import demo_traffic
from infra import scoring_job
from infra.application import bring_up, codec_of, enricher_of, rule_book
from infra.decisions import find
from infra.features import backfill_recorded
from infra.first_model import train_first_model
from infra.probes import read_json_url
from infra.records import load_records
from infra.releases import promote_model, promote_rules
from infra.replay import LedgerView, watch_ledger
from infra.stack import Stack
from serving import ledger
from serving.clock import now_ms
from serving.codec import Codec
from serving.model import load_model
from serving.online_store import OnlineStore
from serving.records import DeadLetter, Decision
from serving.replay import replay
from serving.rules_file import DEFAULT_RULES_PATH
from tests.command_line import on_the_command_line
from tests.private_stack import put_small_model_into_production

DAY_MS = 86_400_000


@dataclass
class System:
    stack: Stack
    codec: Codec

    @property
    def bootstrap(self) -> str:
        return self.stack.addresses.bootstrap_servers

    def stream(self, frame: pl.DataFrame, rate: float) -> Run:
        return Driver(self.bootstrap, self.codec, hold=False).run(interleave(frame, None, rate), paced=True, linger_s=90.0)

    def committed(self, run: Run) -> tuple[LedgerView, list[Decision]]:
        found: list[Decision] = []
        return watch_ledger(self.bootstrap, self.codec, run.sent_ids, take=found.append, quiet_s=40.0), found


@pytest.fixture(scope="module")
def system(stack: Stack) -> Iterator[System]:
    """The stack with a small model and the scoring job; the job is gone afterwards."""
    put_small_model_into_production(stack)
    bring_up(stack, lambda _text: None)
    yield System(stack, codec_of(stack.plan))
    scoring_job.stop(stack.plan, with_savepoint=False)


def _traffic(seconds: float, rate: float, seed: int) -> pl.DataFrame:
    """Events of the last seconds: none of them is from the future whenever it is sent."""
    return demo_traffic(seconds, rate, seed=seed, start_ms=now_ms() - round(seconds * 1000), users=500, merchants=50)


def test_every_event_is_decided_once_with_model_rules_and_recorded_numbers(system: System) -> None:
    run = system.stream(_traffic(5, 200, seed=21), 200)
    view, decisions = system.committed(run)
    assert (len(view.missing), view.duplicates, len(decisions)) == (0, 0, 1_000)
    assert None not in view.models
    assert None not in view.rule_sets
    assert all(position.seq >= 1 for decision in decisions for position in decision.entities)
    assert all(decision.transaction.ip_address is None for decision in decisions)
    assert all(decision.contributions is not None for decision in decisions if decision.outcome != "ALLOW")


def test_the_two_halves_of_the_python_have_a_taskmanager_each(system: System) -> None:
    """Together they would wait for one interpreter lock while the other TaskManager had nothing to compute."""
    job = f"{system.stack.addresses.flink_rest_url}/jobs/{scoring_job.state_of(system.stack.plan).job_id}"
    places = {
        vertex["name"].split(" ")[0]: {task["taskmanager-id"] for task in read_json_url(f"{job}/vertices/{vertex['id']}")["subtasks"]}
        for vertex in read_json_url(job)["vertices"]
    }
    assert places["observe"] == places["infer"]
    assert len(places["ingest"] | places["observe"]) == 2


def test_the_online_store_holds_the_state_of_the_last_decision_within_a_second(system: System) -> None:
    """State and number of an entity in Redis are those that the newest decision recorded."""
    run = system.stream(_traffic(2, 100, seed=22), 100)
    _, decisions = system.committed(run)
    newest = {(p.kind, p.key): p.seq for decision in decisions for p in decision.entities}
    for decision in decisions:
        for position in decision.entities:
            newest[position.kind, position.key] = max(newest[position.kind, position.key], position.seq)
    time.sleep(1.0)
    store = OnlineStore(system.stack.addresses.redis_url)
    cards = [key for kind, key in newest if kind == "card"]
    for key in cards:
        stored = store.read([(Kind.CARD, key)])[0]
        assert stored is not None
        assert state_seq(decode_state(stored.state, Kind.CARD)) == stored.seq >= newest["card", key]
    store.close()


def _bad_records(codec: Codec) -> dict[str, tuple[bytes | None, bytes | None]]:
    """Name of the defect to (key, value)."""

    def encoded(**changes: object) -> bytes:
        tx = Transaction("bad", "default", "card", "m", 100, "USD", now_ms())
        for name, value in changes.items():
            setattr(tx, name, value)
        return codec.encode_transaction(tx)

    good = encoded()
    return {
        "random bytes": (b"card", b"\x9c\x01random bytes"),
        "truncated": (b"card", good[: len(good) // 2]),
        "unknown schema": (b"card", b"\0\x7f\xff\xff\xf0" + good[5:]),
        "null": (b"card", None),
        "NaN": (b"card", encoded(lat=float("nan"), lon=1.0)),
        "lat 999": (b"card", encoded(lat=999.0, lon=1.0)),
        "negative": (b"card", encoded(amount_minor=-1)),
        "1 MiB": (b"card", bytes(1 << 20)),
        "empty key": (b"", good),
        "tomorrow": (b"card", encoded(event_time_ms=now_ms() + DAY_MS)),
    }


def test_bad_input_becomes_exactly_that_many_dead_letters_and_the_rest_is_scored(system: System) -> None:
    bad = _bad_records(system.codec)
    before = len(_dead_letters(system))
    job = scoring_job.state_of(system.stack.plan)
    producer = Producer({"bootstrap.servers": system.bootstrap, "message.max.bytes": 2_000_000})
    for key, value in bad.values():
        producer.produce(ledger.TRANSACTIONS, value, key)
    producer.flush(20)
    run = system.stream(_traffic(2, 200, seed=23), 200)
    view, _ = system.committed(run)
    letters = _dead_letters(system)[before:]
    codes = Counter(letter.code for letter in letters)
    assert len(letters) == len(bad), codes
    assert codes == Counter(
        bad_magic=1,
        truncated=1,
        unknown_schema_id=1,
        null_value=1,
        bad_latitude=2,
        bad_amount=1,
        too_large=1,
        empty_key=1,
        future_event=1,
    )
    assert {letter.origin_topic for letter in letters} == {ledger.TRANSACTIONS}
    assert len({(letter.origin_partition, letter.origin_offset) for letter in letters}) == len(bad)
    assert (len(view.missing), view.duplicates, view.decided) == (0, 0, 400)
    after = scoring_job.state_of(system.stack.plan)
    assert (after.job_id, after.state) == (job.job_id, "RUNNING")


def _dead_letters(system: System) -> list[DeadLetter]:
    deadline = time.monotonic() + 3.0
    letters: list[DeadLetter] = []
    while time.monotonic() < deadline:
        values = (message.value() for message in ledger.read_to_end(system.bootstrap, (ledger.DEAD_LETTERS,)))
        letters = sorted((system.codec.decode_dead_letter(value) for value in values), key=lambda letter: letter.timestamp_ms)
        time.sleep(0.5)
    return letters


def test_promoted_rules_reach_the_running_job_within_five_seconds(system: System, tmp_path: Path) -> None:
    document = yaml.safe_load(DEFAULT_RULES_PATH.read_text())
    document["rules"].append(
        {"id": "everything", "name": "everything", "when": "amount > 0", "score": 0.01, "reason_code": "EVERYTHING", "message": "{amount}"}
    )
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(document))
    release = promote_rules(system.stack.plan, file, author="test")
    time.sleep(5.0)
    _, decisions = system.committed(system.stream(_traffic(1, 100, seed=24), 100))
    assert {decision.rule_set_hash for decision in decisions} == {release.identity}
    assert all("EVERYTHING" in {rule.reason_code for rule in decision.rules} for decision in decisions)


def test_decisions_of_before_and_after_changes_of_rules_and_model_replay_to_the_last_bit(system: System, tmp_path: Path) -> None:
    plan = system.stack.plan
    models = scoring_job.models_dir(plan.layout)
    _, before = system.committed(system.stream(_traffic(4, 100, seed=27), 100))
    document = yaml.safe_load(DEFAULT_RULES_PATH.read_text())
    document["rules"] = [{**rule, "score": rule["score"] / 2} for rule in document["rules"]]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(document))
    release = promote_rules(plan, file, author="test")
    time.sleep(5.0)
    _, after = system.committed(system.stream(_traffic(3, 100, seed=28), 100))
    assert {decision.rule_set_hash for decision in after} == {release.identity}
    assert release.identity not in {decision.rule_set_hash for decision in before}
    other = train_first_model(models, enricher_of(system.stack), say=lambda _text: None, start_ms=now_ms(), rows=6_000, seed=99).sha256
    promote_model(plan, other)
    time.sleep(5.0)
    _, last = system.committed(system.stream(_traffic(3, 100, seed=29), 100))
    assert {decision.model_sha256 for decision in last} == {other}
    assert other not in {decision.model_sha256 for decision in (*before, *after)}
    book, model = rule_book(plan), lru_cache(lambda sha256: load_model(models, sha256))
    replays = [replay(decision, book.rules, model) for decision in (*before, *after, *last)]
    assert [found.differences for found in replays if not found.equal] == []
    assert len(replays) == 1_000
    found = find(plan, before[0].decision_id, before[0].tenant_id)  # by its id, from the ledger
    assert found is not None
    assert found.transaction_id == before[0].transaction_id


def test_a_taskmanager_killed_in_mid_stream_loses_and_repeats_nothing(system: System, tmp_path: Path) -> None:
    """The job recovers by itself, and what it computed before and after is what a backfill computes, of the ledger and of the lake."""
    frame = _traffic(20, 200, seed=25)
    victim = load_records(system.stack.layout)["taskmanager-1"]
    killer = threading.Timer(8.0, _kill, args=(victim.pid,))
    killer.start()
    run = system.stream(frame, 200)
    view, _ = system.committed(run)
    assert load_records(system.stack.layout)["taskmanager-1"].pid != victim.pid
    assert (view.missing, view.duplicates, view.decided) == ([], 0, 4_000)
    features = tmp_path / "features.parquet"
    report = backfill_recorded(LedgerTopics(system.bootstrap, system.codec), out=features, check=None, say=lambda _text: None)
    assert report["differing_from_record"] == 0
    assert report["duplicates"] == 0
    home = system.stack.layout.home
    assert on_the_command_line(home, "lake", "sync")[1]["rows"]["transactions"] == report["events"]
    status, found = on_the_command_line(home, "features", "backfill", "--lake", "--check", str(features))
    assert (status, found["events"], found["compared_rows"]) == (0, report["events"], report["events"])
    assert (found["differing_from_record"], found["differing_rows"]) == (0, 0)


def _kill(pid: int) -> None:
    import os
    import signal

    os.kill(pid, signal.SIGKILL)


def test_a_savepoint_carries_the_numbers_into_the_next_job(system: System) -> None:
    """Events after a stop with savepoint continue each log where it stood."""
    _, before = system.committed(system.stream(_traffic(2, 100, seed=26), 100))
    location = scoring_job.stop(system.stack.plan, with_savepoint=True)
    assert location is not None
    scoring_job.ensure_running(system.stack.plan)
    again = _traffic(2, 100, seed=26).with_columns(pl.concat_str(pl.lit("again-"), "transaction_id").alias("transaction_id"))
    _, after = system.committed(system.stream(again, 100))
    highest = {p.key: p.seq for d in before for p in d.entities if p.kind == "card"}
    first = {}
    for decision in after:
        for position in decision.entities:
            if position.kind == "card":
                first[position.key] = min(first.get(position.key, 1 << 60), position.seq)
    shared = set(highest) & set(first)
    assert shared
    assert all(first[key] > 1 for key in shared)
