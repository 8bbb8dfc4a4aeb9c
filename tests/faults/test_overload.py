"""F21: a sink that is far too slow, and a burst: memory stays bounded, nothing is lost, and the lag drains afterwards."""

from __future__ import annotations

import time

import psutil
import pytest

from generator.driver import interleave
from infra import scoring_job
from infra.nemesis import live_pid
from tests.faults.world import CLEAN, World, figures

pytestmark = pytest.mark.slow


def _rss_mb(world: World) -> dict[str, int]:
    names = ("kafka", "jobmanager", "taskmanager-1", "taskmanager-2", "redis")
    return {name: psutil.Process(live_pid(world.stack.layout, name)).memory_info().rss // 1_000_000 for name in names}


def _limit_mb(world: World) -> int:
    """Of a TaskManager: every pool that it is configured with, and what the JVM and the interpreter need beside them."""
    settings = world.stack.plan.settings
    return settings.taskmanager_heap_mb + settings.taskmanager_managed_mb + 128 + 64 + 64 + 256 + 192 + 600


@pytest.mark.job(variant="slow sink")
def test_f21_a_slow_sink_and_a_burst(world: World) -> None:
    """The job variant's sink is slow while a file is there.  Control: it is so slow that most of the burst waits."""
    flag = scoring_job.models_dir(world.stack.layout).parent / "slow"
    with world.campaign("f21") as campaign:
        frame = world.traffic(campaign.tenant, seconds=world.load.events / world.load.rate)
        flag.touch()
        try:
            campaign.drive(interleave(frame, None, 4 * world.load.rate), linger_s=5.0)
            time.sleep(10.0 if world.load.kills == 1 else 240.0)
            held = _rss_mb(world)
            waiting = frame.height - len(campaign.tail.visible)
        finally:
            flag.unlink()
        began = time.monotonic()
        campaign.settle()
        drained_s = round(time.monotonic() - began, 1)
        verdict = campaign.verdict()
        restarts = world.restarts()
        world.note(
            "F21", injected="slow sink, burst x4", waiting=waiting, drained_s=drained_s, rss_mb=held, restarts=restarts, **figures(verdict)
        )
        assert waiting > frame.height // 2, "control: the sink was not slow"
        assert max(held["taskmanager-1"], held["taskmanager-2"]) <= _limit_mb(world), held
        assert verdict.anomalies == CLEAN, verdict.examples
        assert restarts == 0
