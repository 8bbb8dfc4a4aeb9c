"""F01 to F04: servers killed under load.  Nothing is lost, repeated, invented, misnumbered, miscomputed or reordered.

The figures of recovery are printed, not asserted: a busy machine is no defect.  Patience is bounded all the same.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from generator.driver import Run
from infra import nemesis, scoring_job
from infra.campaign import endless
from infra.jobs import find_newest_checkpoint
from infra.probes import read_json_url
from infra.records import SUPERVISOR
from serving.clock import now_ms
from tests.faults.world import ANSWER_S, CLEAN, World, figures, strike


def hosts_python(pid: int) -> bool:
    """Whether a process has a Python interpreter in it: thread mode has no worker process, the TaskManager is the worker."""
    return any("libpython" in line or "pemja" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if ".so" in line)


def runs_operators(world: World, server: str) -> bool:
    """Whether Flink runs subtasks of the job on a TaskManager now."""
    state = scoring_job.state_of(world.stack.plan)
    job = f"{world.stack.addresses.flink_rest_url}/jobs/{state.job_id}"
    vertices = read_json_url(job, ANSWER_S)["vertices"]
    subtasks = [task for vertex in vertices for task in read_json_url(f"{job}/vertices/{vertex['id']}", ANSWER_S)["subtasks"]]
    return any(task["taskmanager-id"] == server and task["status"] == "RUNNING" for task in subtasks)


def test_f01_a_killed_taskmanager(world: World) -> None:
    """Control: the fast lane is an at-least-once sink of the same rows in the same job, and must repeat some of them."""
    chance, recoveries = random.Random(1), []
    with world.campaign("f01") as campaign:

        def fault() -> None:
            for number in range(world.load.kills):
                strike(world, campaign, number, chance)
                _, moment_ms = nemesis.kill(world.stack.layout, f"taskmanager-{1 + number % 2}")
                recoveries.append(world.wait_until_recovered(campaign, moment_ms))

        verdict = world.under_fault(campaign, fault)
        repeats = campaign.fast_lane_repeats()
        world.note(
            "F01",
            injected=f"kill -9 TaskManager x{world.load.kills}",
            limit_s=30,
            recovery_s=recoveries,
            control=repeats,
            **figures(verdict),
        )
        assert verdict.anomalies == CLEAN, verdict.examples
        assert repeats > 0, "control: an at-least-once sink repeats"


def test_f02_a_killed_jobmanager(world: World) -> None:
    """There is no high availability: the supervisor submits the job again, from the newest completed checkpoint every time."""
    chance, recoveries, restored = random.Random(2), [], []
    with world.campaign("f02") as campaign:

        def fault() -> None:
            for number in range(world.load.kills):
                strike(world, campaign, number, chance)
                _, moment_ms = nemesis.kill(world.stack.layout, "jobmanager")
                newest = find_newest_checkpoint(world.stack.layout, world.ticket())
                recoveries.append(world.wait_until_recovered(campaign, moment_ms))
                job_id = scoring_job.state_of(world.stack.plan).job_id
                answer = read_json_url(f"{world.stack.addresses.flink_rest_url}/jobs/{job_id}/checkpoints", ANSWER_S)["latest"]["restored"]
                restored.append((newest, answer["external_path"]))

        verdict = world.under_fault(campaign, fault)
        world.note("F02", injected=f"kill -9 JobManager x{world.load.kills}", limit_s=60, recovery_s=recoveries, **figures(verdict))
        assert verdict.anomalies == CLEAN, verdict.examples
        for newest, used in restored:
            # a checkpoint may have completed between the kill and the look, never the other way round
            assert Path(used.removeprefix("file:")).name == Path(str(newest)).name


def test_f02_control_restoring_an_older_checkpoint_repeats(world: World) -> None:
    with world.campaign("f02-control") as campaign:

        def fault() -> None:
            strike(world, campaign, 0, random.Random(3))
            world.restore_the_checkpoint_before_the_newest()

        verdict = world.under_fault(campaign, fault)
        world.note("F02 control", injected="restore checkpoint N-1", **figures(verdict))
        assert verdict.duplicate > 0
        assert verdict.lost == 0


def test_f03_a_killed_python_worker(world: World) -> None:
    """The Python operators run inside the TaskManager, so that it is the worker: the killed process must have been running them.

    What it had put into an open transaction is seen by readers of uncommitted records and taken back.
    """
    chance, recoveries = random.Random(4), []
    with world.campaign("f03") as campaign:

        def fault() -> None:
            for number in range(world.load.kills):
                victim = f"taskmanager-{2 - number % 2}"
                strike(world, campaign, number, chance)
                assert hosts_python(nemesis.live_pid(world.stack.layout, victim)), "worker found"
                assert runs_operators(world, victim)
                _, moment_ms = nemesis.kill(world.stack.layout, victim)
                recoveries.append(world.wait_until_recovered(campaign, moment_ms))

        verdict = world.under_fault(campaign, fault)
        aborted = campaign.aborted_rows()
        world.note(
            "F03",
            injected=f"kill -9 Python worker x{world.load.kills}",
            limit_s=30,
            recovery_s=recoveries,
            aborted=aborted,
            **figures(verdict),
        )
        assert verdict.anomalies == CLEAN, verdict.examples
        assert aborted > 0


def test_f03_control_a_process_without_operators_is_no_worker(world: World) -> None:
    assert not hosts_python(nemesis.live_pid(world.stack.layout, "jobmanager"))
    assert not runs_operators(world, "jobmanager")


def _broker_is_killed(world: World, frozen_s: float) -> float:
    """Stop the broker, so that what is sent meanwhile waits in its sockets, and kill it; returns the moment of the kill."""
    with nemesis.freeze(world.stack.layout, "kafka") as pid:
        time.sleep(frozen_s)
        moment_ms = time.time() * 1000.0
        os.kill(pid, signal.SIGKILL)
    return moment_ms


def test_f04_a_killed_broker(world: World) -> None:
    """Control: a second sender that asks for no acknowledgement (acks=0), through the same kills, must lose something."""
    chance, recoveries, down_s = random.Random(5), [], []
    over = threading.Event()
    with world.campaign("f04") as campaign, world.campaign("f04-control") as control:

        def fault() -> None:
            for number in range(world.load.kills):
                strike(world, campaign, number, chance)
                moment_ms = _broker_is_killed(world, 1.0)
                nemesis.live_pid(world.stack.layout, "kafka")
                down_s.append(round(time.time() - moment_ms / 1000.0, 1))
                recoveries.append(world.wait_until_recovered(campaign, moment_ms))

        def send_without_acknowledgement() -> Run:
            traffic = endless(control.tenant, 100.0, seed=8, start_ms=now_ms(), is_over=over.is_set, users=300, merchants=30)
            return control.drive(traffic, linger_s=3.0, producer_options={"acks": 0, "enable.idempotence": False})

        careless = threading.Thread(target=send_without_acknowledgement, daemon=True)
        careless.start()
        try:
            verdict = world.under_fault(campaign, fault)
        finally:
            over.set()
            careless.join(60.0)
        control.settle(quiet_s=10.0)
        lost = control.verdict().lost
        world.note(
            "F04",
            injected=f"broker stopped 1 s, then kill -9, x{world.load.kills}",
            limit_s="down + 45",
            recovery_s=recoveries,
            down_s=down_s,
            control=lost,
            **figures(verdict),
        )
        assert verdict.anomalies == CLEAN, verdict.examples
        assert lost > 0, "control: a sender that does not ask loses"


@pytest.mark.slow
@pytest.mark.parametrize("down_s", [5.0, 30.0])
def test_f04_a_broker_that_stays_away(world: World, down_s: float) -> None:
    """The supervisor, which would bring it back at once, is frozen meanwhile."""
    chance, recoveries = random.Random(6), []
    with world.campaign("f04-away") as campaign:

        def fault() -> None:
            for number in range(world.load.kills):
                strike(world, campaign, number, chance)
                with nemesis.freeze(world.stack.layout, SUPERVISOR):
                    _, moment_ms = nemesis.kill(world.stack.layout, "kafka")
                    time.sleep(down_s)
                recoveries.append(world.wait_until_recovered(campaign, moment_ms))

        verdict = world.under_fault(campaign, fault)
        injected = f"broker away {down_s:g} s x{world.load.kills}"
        world.note("F04 away", injected=injected, limit_s=down_s + 45, recovery_s=recoveries, **figures(verdict))
        assert verdict.anomalies == CLEAN, verdict.examples


@pytest.mark.slow
def test_f04_a_broker_that_stops_answering(world: World) -> None:
    """SIGSTOP for 20 s: longer than Flink's clients wait for a request, shorter than transactions live."""
    recoveries = []
    with world.campaign("f04-stop") as campaign:

        def fault() -> None:
            for _ in range(world.load.kills):
                time.sleep(3.0)
                with nemesis.freeze(world.stack.layout, "kafka"):
                    time.sleep(20.0)
                recoveries.append(world.wait_until_recovered(campaign, time.time() * 1000.0))

        verdict = world.under_fault(campaign, fault)
        world.note("F04 stop", injected=f"SIGSTOP broker 20 s x{world.load.kills}", limit_s=45, recovery_s=recoveries, **figures(verdict))
        assert verdict.anomalies == CLEAN, verdict.examples
