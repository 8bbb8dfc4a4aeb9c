"""F08 and F23: what is changed on purpose under load: parallelism, the job itself, models, and models that are bad."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer

from fraud.errors import Unavailable
from infra import scoring_job
from infra.application import codec_of, enricher_of
from infra.campaign import Campaign
from infra.first_model import train_first_model
from infra.jobs import save_ticket
from infra.releases import promote_model
from infra.scoring_job import models_dir
from serving import model_files
from serving.clock import now_ms
from serving.records import ModelVersion
from tests.faults.world import CLEAN, Load, World, figures, private_world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory, load: Load, measured: list[dict[str, object]]) -> Iterator[World]:
    """A world whose state is in two shards: they can be together or apart."""
    with private_world(tmp_path_factory.mktemp("divided"), load, measured, shards=2) as world:
        yield world


def test_f08_savepoint_and_another_parallelism_and_back(divided: World) -> None:
    """Under load throughout: 2 to 1, 1 to 2, and a plain upgrade that keeps both; every log goes on where it stood."""
    world = divided
    with world.campaign("f08") as campaign:

        def fault() -> None:
            for parallelism in (1, 2, 2):
                time.sleep(4.0)
                world.stop_job()
                world.start_job(settings={"taskmanagers": parallelism})
                assert scoring_job.state_of(world.stack.plan).parallelism == parallelism
                time.sleep(4.0)

        verdict = world.under_fault(campaign, fault)
        highest = _newest_numbers(campaign)
        world.note("F08", injected="savepoint, parallelism 2 -> 1 -> 2, upgrade", keys=len(highest), **figures(verdict))
        assert verdict.anomalies == CLEAN, verdict.examples
        assert max(highest.values()) > 1


def _newest_numbers(campaign: Campaign) -> dict[str, int]:
    highest: dict[str, int] = {}
    for decision in campaign.decisions():
        for position in decision.entities:
            highest[position.key] = max(position.seq, highest.get(position.key, 0))
    return highest


def test_f08_control_operators_without_uid_cannot_be_restored(world: World) -> None:
    """Refused at submission or as the job's first failure, and never started with empty state."""
    world.stop_job()
    kept = world.ticket()
    try:
        with pytest.raises((AssertionError, Unavailable)) as refusal:
            world.start_job(variant="no uids")
        log = "".join(path.read_text(errors="replace") for path in world.stack.layout.logs.glob("jobmanager*"))
        world.note("F08 control", injected="uids removed", control=str(refusal.value)[-200:])
        assert "cannot map" in log.lower() or "Cannot map" in str(refusal.value)
    finally:
        scoring_job.stop(world.stack.plan, with_savepoint=False)
        world.wait_until_gone()
        save_ticket(world.stack.layout, kept)
        world.start_job()


def test_f23_models_swapped_and_rolled_back_under_load_and_bad_ones_refused(world: World) -> None:
    """Every decision carries one model; a model file that was cut or altered is refused and the one before it goes on."""
    plan = world.stack.plan
    folder = models_dir(plan.layout)
    first = model_files.production(folder)
    assert first is not None
    second = train_first_model(folder, enricher_of(world.stack), say=lambda _text: None, start_ms=now_ms(), rows=6_000, seed=99).sha256
    cut, altered = _bad_copies(folder / second)
    with world.campaign("f23") as campaign:

        def fault() -> None:
            time.sleep(2.0)
            promote_model(plan, second)
            time.sleep(3.0)
            for bad in (cut, altered):
                _send_model(world, bad)
                time.sleep(2.0)
            promote_model(plan, first.sha256)
            time.sleep(3.0)

        try:
            verdict = world.under_fault(campaign, fault)
        finally:
            promote_model(plan, first.sha256)
        used = [decision.model_sha256 for decision in campaign.decisions()]
        world.note("F23", injected="swap, truncated, tampered, rollback", models=len(set(used)), **figures(verdict))
        assert verdict.anomalies == CLEAN, verdict.examples
        assert set(used) == {first.sha256, second}
    with world.campaign("f23-after") as after:
        world.send(after, world.traffic(after.tenant, seconds=1.0))
        after.settle()
        assert {decision.model_sha256 for decision in after.decisions()} == {first.sha256}


def _bad_copies(folder: object) -> tuple[str, str]:
    """Two published folders whose text is not what their name says: cut short, and with one digit changed."""
    import shutil
    from pathlib import Path

    source = Path(str(folder))
    names = []
    for number, spoil in enumerate((lambda text: text[: len(text) // 2], lambda text: text.replace("1", "2", 1))):
        name = f"{number}" * 64
        target = source.parent / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        file = target / "model.txt"
        file.chmod(0o600)
        file.write_text(spoil(file.read_text()))
        names.append(name)
    return names[0], names[1]


def _send_model(world: World, sha256: str) -> None:
    """Straight onto the control topic, past the check that ``promote`` makes."""
    record = ModelVersion("fraud", sha256[:12], sha256, "nowhere", now_ms())
    producer = Producer({"bootstrap.servers": world.stack.addresses.bootstrap_servers})
    producer.produce("models", codec_of(world.stack.plan).encode_model(record), b"default")
    assert producer.flush(30.0) == 0
